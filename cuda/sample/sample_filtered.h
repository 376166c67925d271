#pragma once
#include "ops/args.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// See SampleArgs. `scratch`: [num_rows, vocab_size] floats.
void sample_filtered(const SampleArgs& args, float* scratch, const LaunchContext& context);

}  // namespace imp::cuda
