#include "engine/runner.h"

#include <algorithm>
#include <cassert>

namespace imp {

Runner::Runner(LoadedModel& model, const DrawStates& states) : model_(model), states_(states) {
  const MemoryPlan& plan = model.memory;
  Backend& backend = *model.backend;
  const int64_t tokens = plan.max_step_tokens, sequences = plan.max_batch_size, rows = plan.max_logit_rows;
  constexpr int64_t kIntsOfDraw = sizeof(SampleRow) / sizeof(int32_t);
  max_draws_ = plan.max_batch_size;
  packed_capacity_ = 2 * tokens + (sequences + 1) + sequences * (1 + blocks_for(plan.max_seq_len) + kIntsOfDraw) + rows;
  const auto packed_bytes = static_cast<uint64_t>(packed_capacity_) * sizeof(int32_t);
  device_packed_ = static_cast<int32_t*>(backend.allocate(packed_bytes, MemoryTag::workspace));
  logits_ = static_cast<float*>(backend.allocate(plan.logits_bytes, MemoryTag::logits));
  drawn_ = static_cast<int32_t*>(
      backend.allocate(static_cast<uint64_t>(max_draws_) * sizeof(int32_t), MemoryTag::workspace));
  results_ = static_cast<SampleResult*>(
      backend.allocate_host(static_cast<uint64_t>(Backend::kMarkSlots * max_draws_) * sizeof(SampleResult)));
  const bool host = backend.memory_is_host();
  host_logits_ = host ? logits_ : static_cast<float*>(backend.allocate_host(plan.logits_bytes));
  for (int32_t*& staging : staging_)
    staging = host ? device_packed_ : static_cast<int32_t*>(backend.allocate_host(packed_bytes));
}

/// Room for an array of the step. Equal steps have equal sizes, so they find their arrays at equal addresses, which
/// replaying a step needs.
int32_t* Runner::place(int64_t count) {
  assert(packed_size_ + count <= packed_capacity_);
  int32_t* at = staging_[static_cast<size_t>(slot_)] + packed_size_;
  packed_size_ += count;
  return at;
}

const int32_t* Runner::on_device(const int32_t* staged) const {
  return device_packed_ + (staged - staging_[static_cast<size_t>(slot_)]);
}

void Runner::launch(int slot, std::span<const RunChunk> chunks, std::span<const BlockCopy> copies,
                    std::span<const SampleRow> draws) {
  Backend& backend = *model_.backend;
  for (const BlockCopy& copy : copies)
    for (const KvLayerView& layer : model_.kv) backend.copy_kv_block(layer, copy.from, copy.to);

  slot_ = slot;
  packed_size_ = 0;
  StepShape shape{.num_sequences = static_cast<int>(chunks.size()), .num_drawn = static_cast<int>(draws.size())};
  for (const RunChunk& chunk : chunks) {
    const auto num_tokens = static_cast<int>(chunk.tokens.size());
    shape.num_tokens += num_tokens;
    shape.num_logit_rows += chunk.num_logit_rows;
    shape.max_query_len = std::max(shape.max_query_len, num_tokens);
    shape.max_context_len = std::max(shape.max_context_len, static_cast<int>(chunk.begin) + num_tokens);
  }
  shape.max_context_len = backend.planned_context(shape.max_context_len);
  shape.plain_draws = std::ranges::all_of(draws, &SampleRow::is_plain);
  assert(shape.num_tokens <= model_.memory.max_step_tokens && shape.num_logit_rows <= model_.memory.max_logit_rows);
  assert(shape.num_drawn <= max_draws_);
  // Rows of block tables are as wide as this shape needs: what is not read is not copied.
  const int64_t stride = blocks_for(std::min<int64_t>(shape.max_context_len, model_.memory.max_seq_len));

  int32_t* token_ids = place(shape.num_tokens);
  int32_t* positions = place(shape.num_tokens);
  int32_t* query_start = place(shape.num_sequences + 1);
  int32_t* context_len = place(shape.num_sequences);
  int32_t* block_tables = place(shape.num_sequences * stride);
  int32_t* logit_rows = place(shape.num_logit_rows);
  auto* rows = reinterpret_cast<SampleRow*>(place(shape.num_drawn * int64_t{sizeof(SampleRow) / sizeof(int32_t)}));
  ForwardBatch batch{.num_tokens = shape.num_tokens,
                     .token_ids = on_device(token_ids),
                     .drawn = drawn_,
                     .sequences = {.num_sequences = shape.num_sequences,
                                   .query_start = on_device(query_start),
                                   .context_len = on_device(context_len),
                                   .block_tables = on_device(block_tables),
                                   .block_table_stride = static_cast<int>(stride),
                                   .positions = on_device(positions),
                                   .max_query_len = shape.max_query_len,
                                   .max_context_len = shape.max_context_len},
                     .logit_rows = on_device(logit_rows),
                     .num_logit_rows = shape.num_logit_rows};
  const SampleArgs sampling{
      .logits = f32_view(logits_, shape.num_logit_rows, model_.spec.vocab_size),
      .rows = reinterpret_cast<const SampleRow*>(on_device(reinterpret_cast<const int32_t*>(rows))),
      .num_rows = shape.num_drawn,
      .plain = shape.plain_draws,
      .allowed = states_.allowed(),
      .counts = states_.counts(),
      .bias = states_.bias(),
      .ids = drawn_,
      .results = results_};

  int32_t row = 0;
  *query_start++ = 0;
  for (const RunChunk& chunk : chunks) {
    const auto num_tokens = static_cast<int32_t>(chunk.tokens.size());
    const auto begin = static_cast<int32_t>(chunk.begin);
    assert(static_cast<int64_t>(chunk.blocks.size()) >= blocks_for(begin + num_tokens));
    token_ids = std::copy(chunk.tokens.begin(), chunk.tokens.end(), token_ids);
    for (int32_t i = 0; i < num_tokens; ++i) *positions++ = begin + i;
    for (int32_t i = num_tokens - chunk.num_logit_rows; i < num_tokens; ++i) *logit_rows++ = row + i;
    row += num_tokens;
    *query_start++ = row;
    *context_len++ = begin + num_tokens;
    int32_t* end = std::copy_n(chunk.blocks.begin(), blocks_for(begin + num_tokens), block_tables);
    block_tables += stride;
    std::fill(end, block_tables, 0);
  }
  for (size_t i = 0; i < draws.size(); ++i) {
    rows[i] = draws[i];
    rows[i].result = slot_ * max_draws_ + static_cast<int32_t>(i);
  }

  backend.upload(device_packed_, staging_[static_cast<size_t>(slot_)],
                 static_cast<uint64_t>(packed_size_) * sizeof(int32_t));
  backend.run_step(shape, [&] {
    model_.decoder->forward(batch, sampling.logits);
    if (sampling.num_rows > 0) backend.sample(sampling);
  });
  backend.mark(slot_);
}

std::span<const SampleResult> Runner::results(int slot) const {
  return {results_ + slot * max_draws_, static_cast<size_t>(max_draws_)};
}

std::span<float> Runner::logits(int64_t first, int64_t count) {
  const auto vocab_size = static_cast<size_t>(model_.spec.vocab_size);
  const size_t offset = static_cast<size_t>(first) * vocab_size, size = static_cast<size_t>(count) * vocab_size;
  if (host_logits_ != logits_) model_.backend->download(host_logits_ + offset, logits_ + offset, size * sizeof(float));
  return {host_logits_ + offset, size};
}

}  // namespace imp
