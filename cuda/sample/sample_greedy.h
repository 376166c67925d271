#pragma once
#include <cstddef>

#include "ops/args.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// What the blocks of one row leave for the last of them.
struct GreedyPartial {
  unsigned long long best;  // see sample_greedy.cu
  int num_nan, num_inf, num_neg_inf;
};

constexpr int kMaxGreedyBlocks = 64;  // that share a row

struct GreedyScratch {
  GreedyPartial* partial;  // [max_rows, kMaxGreedyBlocks]
  unsigned* arrived;       // [max_rows], zero between launches
};

/// See SampleArgs.
void sample_greedy(const SampleArgs& args, const GreedyScratch& scratch, const LaunchContext& context);

}  // namespace imp::cuda
