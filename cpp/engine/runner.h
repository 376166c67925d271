#pragma once
#include <array>
#include <cstdint>
#include <span>

#include "engine/draw_states.h"
#include "engine/load.h"
#include "kv/block_pool.h"
#include "sched/plan.h"

namespace imp {

/// A piece of one sequence to run: `tokens` are new, the first of them at position `begin`; `blocks` already cover
/// them. Logits are wanted of the last `num_logit_rows` of them. A token below 0 is one that the launch before drew:
/// -1 - its index among that launch's draws.
struct RunChunk {
  std::span<const int32_t> tokens;
  int64_t begin = 0;
  std::span<const BlockId> blocks;
  int32_t num_logit_rows = 0;
};

/// Turns chunks into the arrays of a ForwardBatch in the backend's memory, and runs the decoder. All memory is taken
/// at construction.
///
/// launch() does not wait for the device, so that a step can be launched before the results of the one before are
/// looked at. A step that is under way has a slot, 0 or 1, to itself.
class Runner {
 public:
  Runner(LoadedModel& model, const DrawStates& states);

  /// One forward batch of at most max_step_tokens tokens and max_logit_rows rows; then draws a token for each of
  /// `draws`, at most max_batch_size, in whose order the results come.
  void launch(int slot, std::span<const RunChunk> chunks, std::span<const BlockCopy> copies,
              std::span<const SampleRow> draws);
  /// Until the step of a slot is done.
  void wait(int slot) { model_.backend->wait(slot); }
  /// Of the step of a slot, after wait(): what became of each draw.
  std::span<const SampleResult> results(int slot) const;
  /// Rows [first, first + count) of the logits of the latest launch, in host memory; waits for them. Valid, and free to
  /// be overwritten, until the next launch.
  std::span<float> logits(int64_t first, int64_t count);

 private:
  int32_t* place(int64_t count);
  const int32_t* on_device(const int32_t* staged) const;

  LoadedModel& model_;
  const DrawStates& states_;
  int max_draws_;
  // The int32 arrays of one step, in one piece of memory: written here, by slot, and copied to the device at once.
  // Where the backend's memory is the host's, all three are the same.
  std::array<int32_t*, Backend::kMarkSlots> staging_ = {};
  int32_t* device_packed_;
  int64_t packed_capacity_, packed_size_ = 0;
  float* logits_;          // backend memory [max_logit_rows, vocab_size]
  float* host_logits_;     // the same where the backend's memory is the host's
  int32_t* drawn_;         // backend memory [max_draws]: ids of the latest draws
  SampleResult* results_;  // memory of both [kMarkSlots, max_draws]
  int slot_ = 0;           // of the latest launch
};

}  // namespace imp
