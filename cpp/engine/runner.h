#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "engine/load.h"
#include "kv/block_pool.h"
#include "sched/plan.h"

namespace imp {

/// A piece of one sequence to run: `tokens` are new, the first of them at position `begin`; `blocks` already cover
/// them. Logits are wanted of the last `num_logit_rows` of them.
struct RunChunk {
  std::span<const int32_t> tokens;
  int64_t begin = 0;
  std::span<const BlockId> blocks;
  int32_t num_logit_rows = 0;
};

/// Turns chunks into the arrays of a ForwardBatch in the backend's memory, and runs the decoder. All memory is taken
/// at construction.
class Runner {
 public:
  explicit Runner(LoadedModel& model);

  /// One forward batch of at most max_step_tokens tokens and max_logit_rows rows. The rows that were asked for,
  /// [num_logit_rows, vocab_size], chunk after chunk, in host memory; valid, and free to be overwritten, until the next
  /// call.
  std::span<float> run(std::span<const RunChunk> chunks, std::span<const BlockCopy> copies = {});

 private:
  void add(const RunChunk& chunk);
  const int32_t* place(const std::vector<int32_t>& values);

  LoadedModel& model_;
  int block_table_stride_;
  // Of one step, [their sizes in the batch]; on the host, then packed into one array for the device.
  std::vector<int32_t> token_ids_, positions_, query_start_, context_len_, block_tables_, logit_rows_;
  std::vector<int32_t> packed_;
  int32_t* device_packed_;
  float* logits_;                 // backend memory [max_logit_rows, vocab_size]
  float* host_logits_ = nullptr;  // null where the backend's memory is the host's
  int max_query_len_ = 0, max_context_len_ = 0;
};

}  // namespace imp
