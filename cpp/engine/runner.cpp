#include "engine/runner.h"

#include <algorithm>
#include <cassert>

namespace imp {

Runner::Runner(LoadedModel& model) : model_(model) {
  const MemoryPlan& plan = model.memory;
  const auto tokens = static_cast<size_t>(plan.max_step_tokens);
  const auto sequences = static_cast<size_t>(plan.max_batch_size);
  block_table_stride_ = static_cast<int>(blocks_for(plan.max_seq_len));
  const size_t rows = static_cast<size_t>(plan.max_logit_rows);
  for (auto* array : {&token_ids_, &positions_}) array->reserve(tokens);
  query_start_.reserve(sequences + 1);
  context_len_.reserve(sequences);
  block_tables_.reserve(sequences * static_cast<size_t>(block_table_stride_));
  logit_rows_.reserve(rows);
  packed_.reserve(2 * tokens + sequences * (2 + static_cast<size_t>(block_table_stride_)) + 1 + rows);
  device_packed_ =
      static_cast<int32_t*>(model.backend->allocate(packed_.capacity() * sizeof(int32_t), MemoryTag::workspace));
  logits_ = static_cast<float*>(model.backend->allocate(plan.logits_bytes, MemoryTag::logits));
  if (!model.backend->memory_is_host())
    host_logits_ = static_cast<float*>(model.backend->allocate_host(plan.logits_bytes));
}

/// Appends `values` to what goes to the device in one copy, and says where they will be. Equal steps have equal sizes,
/// so they find their arrays at equal addresses, which replaying a step needs.
const int32_t* Runner::place(const std::vector<int32_t>& values) {
  const int32_t* at = device_packed_ + packed_.size();
  packed_.insert(packed_.end(), values.begin(), values.end());
  return at;
}

void Runner::add(const RunChunk& chunk) {
  const auto num_tokens = static_cast<int32_t>(chunk.tokens.size());
  const auto context = static_cast<int32_t>(chunk.begin) + num_tokens;
  assert(static_cast<int64_t>(chunk.blocks.size()) >= blocks_for(context));
  const auto first_row = static_cast<int32_t>(token_ids_.size());
  token_ids_.insert(token_ids_.end(), chunk.tokens.begin(), chunk.tokens.end());
  for (int32_t i = 0; i < num_tokens; ++i) positions_.push_back(static_cast<int32_t>(chunk.begin) + i);
  for (int32_t i = num_tokens - chunk.num_logit_rows; i < num_tokens; ++i) logit_rows_.push_back(first_row + i);
  query_start_.push_back(first_row + num_tokens);
  context_len_.push_back(context);

  const size_t row = block_tables_.size();
  block_tables_.resize(row + static_cast<size_t>(block_table_stride_), 0);
  std::copy_n(chunk.blocks.begin(), blocks_for(context), block_tables_.begin() + static_cast<long>(row));
  max_query_len_ = std::max(max_query_len_, num_tokens);
  max_context_len_ = std::max(max_context_len_, context);
}

std::span<float> Runner::run(std::span<const RunChunk> chunks, std::span<const BlockCopy> copies) {
  Backend& backend = *model_.backend;
  for (const BlockCopy& copy : copies)
    for (const KvLayerView& layer : model_.kv) backend.copy_kv_block(layer, copy.from, copy.to);

  for (auto* array : {&token_ids_, &positions_, &query_start_, &context_len_, &block_tables_, &logit_rows_, &packed_})
    array->clear();
  max_query_len_ = max_context_len_ = 0;
  query_start_.push_back(0);
  for (const RunChunk& chunk : chunks) add(chunk);

  ForwardBatch batch;
  batch.num_tokens = static_cast<int64_t>(token_ids_.size());
  batch.token_ids = place(token_ids_);
  batch.sequences = {.num_sequences = static_cast<int>(chunks.size()),
                     .query_start = place(query_start_),
                     .context_len = place(context_len_),
                     .block_tables = place(block_tables_),
                     .block_table_stride = block_table_stride_,
                     .positions = place(positions_),
                     .max_query_len = max_query_len_,
                     .max_context_len = backend.planned_context(max_context_len_)};
  batch.num_logit_rows = static_cast<int64_t>(logit_rows_.size());
  batch.logit_rows = place(logit_rows_);
  assert(batch.num_tokens <= model_.memory.max_step_tokens && batch.num_logit_rows <= model_.memory.max_logit_rows);
  backend.upload(device_packed_, packed_.data(), packed_.size() * sizeof(int32_t));
  const StepShape shape{.num_tokens = batch.num_tokens,
                        .num_logit_rows = batch.num_logit_rows,
                        .num_sequences = batch.sequences.num_sequences,
                        .max_query_len = batch.sequences.max_query_len,
                        .max_context_len = batch.sequences.max_context_len};
  backend.run_step(
      shape, [&] { model_.decoder->forward(batch, f32_view(logits_, batch.num_logit_rows, model_.spec.vocab_size)); });

  const auto count = static_cast<size_t>(batch.num_logit_rows) * static_cast<size_t>(model_.spec.vocab_size);
  if (!host_logits_) return {logits_, count};
  backend.download(host_logits_, logits_, count * sizeof(float));
  return {host_logits_, count};
}

}  // namespace imp
