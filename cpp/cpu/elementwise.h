#pragma once
#include "cpu/context.h"
#include "ops/kernel_table.h"

// What the tables of the small ops share.

namespace imp::cpu {

/// All that the choice of a small op's kernel looks at.
struct IsaProblem {
  Isa isa;
};

template <Isa Needed>
const char* reject_without(const IsaProblem& problem) {
  if (problem.isa >= Needed) return nullptr;
  return Needed == Isa::avx512 ? "needs AVX-512" : "needs AVX2";
}
inline const char* reject_never(const IsaProblem&) { return nullptr; }

/// Elements below which waking the workers costs more than they save.
inline constexpr int64_t kMinParallelElements = 1 << 14;

/// Calls body(range) over [0, total), on all workers or, for little work, on this thread alone. Which it is does not
/// change results: the ops split between rows only.
template <class Body>
void for_ranges(const CpuContext& context, int64_t total, int64_t elements, const Body& body) {
  const int workers = context.pool.num_threads();
  if (total <= 1 || workers == 1 || elements < kMinParallelElements) {
    if (total > 0) body(Range{0, total});
    return;
  }
  context.pool.run([&, total](int worker) {
    const Range range = share_of(total, worker, workers);
    if (range.begin < range.end) body(range);
  });
}

}  // namespace imp::cpu
