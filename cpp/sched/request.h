#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kv/block_pool.h"

namespace imp {

/// Grows with arrival: the smaller, the older. The n sequences of a request have consecutive ids.
using SequenceId = int64_t;

/// One sequence as the scheduler sees it: ids and where their KV is. Invariant between steps: at least one token is
/// not computed yet, the one whose logits give the next.
struct Sequence {
  SequenceId id = 0;
  std::vector<int32_t> tokens = {};  // prompt, then what was generated
  int64_t num_computed = 0;          // leading tokens whose KV is in the cache
  std::vector<BlockId> blocks = {};  // block table; empty while waiting
  int32_t max_chunk = 0;             // most tokens of it in one step; 0: as many as the step has room for

  int64_t num_pending() const { return static_cast<int64_t>(tokens.size()) - num_computed; }
};

}  // namespace imp
