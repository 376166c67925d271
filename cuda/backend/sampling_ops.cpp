#include "backend/sampling_ops.h"

namespace imp::cuda {

SamplingOps::~SamplingOps() {
  for (cudaEvent_t mark : marks_)
    if (mark) static_cast<void>(cudaEventDestroy(mark));
}

uint64_t SamplingOps::scratch_bytes(const StepLimits& limits) {
  return static_cast<uint64_t>(limits.max_sequences) * (kMaxGreedyBlocks * sizeof(GreedyPartial) + sizeof(unsigned));
}

void SamplingOps::open(const StepLimits& limits, const std::function<void*(uint64_t)>& allocate) {
  for (cudaEvent_t& mark : marks_) check(cudaEventCreateWithFlags(&mark, cudaEventDisableTiming), "cudaEventCreate");
  const auto rows = static_cast<uint64_t>(limits.max_sequences);
  greedy_.partial = static_cast<GreedyPartial*>(allocate(rows * kMaxGreedyBlocks * sizeof(GreedyPartial)));
  greedy_.arrived = static_cast<unsigned*>(allocate(rows * sizeof(unsigned)));
}

void SamplingOps::sample(const SampleArgs& args, const LaunchContext& context) const {
  sample_greedy(args, greedy_, context);
}

void SamplingOps::mark(int slot, const LaunchContext& context) const {
  check(cudaEventRecord(marks_[slot], context.stream), "cudaEventRecord");
}

void SamplingOps::wait(int slot) const { check(cudaEventSynchronize(marks_[slot]), "waiting for the device"); }

}  // namespace imp::cuda
