#pragma once
#include <cstdint>

namespace imp::cuda {

/// Adds to a counter in global memory and returns what it was. What this thread wrote, or saw written before a barrier
/// of its block, is visible to whoever finds the new value here and then passes a barrier of its own. Cheaper than
/// __threadfence() on both sides, which orders more than that.
__device__ __forceinline__ int32_t arrive_at_counter(int32_t* counter) {
  int32_t before;
  asm volatile("atom.add.acq_rel.gpu.global.s32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
  return before;
}

}  // namespace imp::cuda
