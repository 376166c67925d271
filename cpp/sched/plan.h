#pragma once
#include <cstdint>
#include <vector>

#include "kv/block_pool.h"
#include "sched/request.h"

namespace imp {

/// Tokens [begin, begin + num_tokens) of a sequence run in this step.
struct PlannedChunk {
  SequenceId sequence = 0;
  int64_t begin = 0;
  int32_t num_tokens = 0;
  bool completes = false;  // reaches the sequence's last token: its logits give the next one
};

struct BlockCopy {
  BlockId from = 0;
  BlockId to = 0;
};

/// What one forward batch does. The copies run first, in order: a block that is freed and handed out again within
/// one plan is read before it is written.
struct StepPlan {
  std::vector<BlockCopy> copies;
  std::vector<PlannedChunk> chunks;   // oldest sequence first
  std::vector<SequenceId> preempted;  // lost their blocks; they wait and are computed again
  int64_t num_tokens = 0;
};

}  // namespace imp
