#include "engine/runner.h"

#include <algorithm>
#include <cassert>

namespace imp {

Runner::Runner(LoadedModel& model) : model_(model) {
  const MemoryPlan& plan = model.memory;
  const auto tokens = static_cast<size_t>(plan.max_step_tokens);
  const auto sequences = static_cast<size_t>(plan.max_batch_size);
  block_table_stride_ = static_cast<int>(blocks_for(plan.max_seq_len));
  token_ids_ = make_array(tokens);
  positions_ = make_array(tokens);
  query_start_ = make_array(sequences + 1);
  context_len_ = make_array(sequences);
  block_tables_ = make_array(sequences * static_cast<size_t>(block_table_stride_));
  logit_rows_ = make_array(static_cast<size_t>(plan.max_logit_rows));
  logits_ = static_cast<float*>(model.backend->allocate(plan.logits_bytes, MemoryTag::logits));
  if (!model.backend->memory_is_host()) host_logits_.resize(plan.logits_bytes / sizeof(float));
}

Runner::Array Runner::make_array(size_t size) {
  Array array;
  array.host.reserve(size);
  array.device = static_cast<int32_t*>(model_.backend->allocate(size * sizeof(int32_t), MemoryTag::workspace));
  return array;
}

const int32_t* Runner::upload(Array& array) {
  model_.backend->upload(array.device, array.host.data(), array.host.size() * sizeof(int32_t));
  return array.device;
}

void Runner::add(const RunChunk& chunk) {
  const auto num_tokens = static_cast<int32_t>(chunk.tokens.size());
  const auto context = static_cast<int32_t>(chunk.begin) + num_tokens;
  assert(static_cast<int64_t>(chunk.blocks.size()) >= blocks_for(context));
  const auto first_row = static_cast<int32_t>(token_ids_.host.size());
  token_ids_.host.insert(token_ids_.host.end(), chunk.tokens.begin(), chunk.tokens.end());
  for (int32_t i = 0; i < num_tokens; ++i) positions_.host.push_back(static_cast<int32_t>(chunk.begin) + i);
  for (int32_t i = num_tokens - chunk.num_logit_rows; i < num_tokens; ++i) logit_rows_.host.push_back(first_row + i);
  query_start_.host.push_back(first_row + num_tokens);
  context_len_.host.push_back(context);

  const size_t row = block_tables_.host.size();
  block_tables_.host.resize(row + static_cast<size_t>(block_table_stride_), 0);
  std::copy_n(chunk.blocks.begin(), blocks_for(context), block_tables_.host.begin() + static_cast<long>(row));
  max_query_len_ = std::max(max_query_len_, num_tokens);
  max_context_len_ = std::max(max_context_len_, context);
}

std::span<float> Runner::run(std::span<const RunChunk> chunks, std::span<const BlockCopy> copies) {
  Backend& backend = *model_.backend;
  for (const BlockCopy& copy : copies)
    for (const KvLayerView& layer : model_.kv) backend.copy_kv_block(layer, copy.from, copy.to);

  for (Array* array : {&token_ids_, &positions_, &query_start_, &context_len_, &block_tables_, &logit_rows_})
    array->host.clear();
  max_query_len_ = max_context_len_ = 0;
  query_start_.host.push_back(0);
  for (const RunChunk& chunk : chunks) add(chunk);

  ForwardBatch batch;
  batch.num_tokens = static_cast<int64_t>(token_ids_.host.size());
  batch.token_ids = upload(token_ids_);
  batch.sequences = {.num_sequences = static_cast<int>(chunks.size()),
                     .query_start = upload(query_start_),
                     .context_len = upload(context_len_),
                     .block_tables = upload(block_tables_),
                     .block_table_stride = block_table_stride_,
                     .positions = upload(positions_),
                     .max_query_len = max_query_len_,
                     .max_context_len = backend.planned_context(max_context_len_)};
  batch.num_logit_rows = static_cast<int64_t>(logit_rows_.host.size());
  batch.logit_rows = upload(logit_rows_);
  assert(batch.num_tokens <= model_.memory.max_step_tokens && batch.num_logit_rows <= model_.memory.max_logit_rows);
  const StepShape shape{.num_tokens = batch.num_tokens,
                        .num_logit_rows = batch.num_logit_rows,
                        .num_sequences = batch.sequences.num_sequences,
                        .max_query_len = batch.sequences.max_query_len,
                        .max_context_len = batch.sequences.max_context_len};
  backend.run_step(
      shape, [&] { model_.decoder->forward(batch, f32_view(logits_, batch.num_logit_rows, model_.spec.vocab_size)); });

  const auto count = static_cast<size_t>(batch.num_logit_rows) * static_cast<size_t>(model_.spec.vocab_size);
  if (host_logits_.empty()) return {logits_, count};
  backend.download(host_logits_.data(), logits_, count * sizeof(float));
  return {host_logits_.data(), count};
}

}  // namespace imp
