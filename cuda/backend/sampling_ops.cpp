#include "backend/sampling_ops.h"

namespace imp::cuda {

SamplingOps::~SamplingOps() {
  for (cudaEvent_t mark : marks_)
    if (mark) static_cast<void>(cudaEventDestroy(mark));
}

uint64_t SamplingOps::scratch_bytes(const StepLimits& limits) {
  const uint64_t row = kMaxGreedyBlocks * sizeof(GreedyPartial) + sizeof(unsigned) +
                       static_cast<uint64_t>(limits.vocab_size) * sizeof(float);
  return static_cast<uint64_t>(limits.max_sequences) * row;
}

void SamplingOps::open(const StepLimits& limits, const std::function<void*(uint64_t)>& allocate) {
  for (cudaEvent_t& mark : marks_) check(cudaEventCreateWithFlags(&mark, cudaEventDisableTiming), "cudaEventCreate");
  const auto rows = static_cast<uint64_t>(limits.max_sequences);
  greedy_.partial = static_cast<GreedyPartial*>(allocate(rows * kMaxGreedyBlocks * sizeof(GreedyPartial)));
  greedy_.arrived = static_cast<unsigned*>(allocate(rows * sizeof(unsigned)));
  adjusted_ = static_cast<float*>(allocate(rows * static_cast<uint64_t>(limits.vocab_size) * sizeof(float)));
}

void SamplingOps::sample(const SampleArgs& args, const LaunchContext& context) const {
  if (args.plain)
    sample_greedy(args, greedy_, context);
  else
    sample_filtered(args, adjusted_, context);
}

void SamplingOps::mark(int slot, const LaunchContext& context) const {
  check(cudaEventRecord(marks_[slot], context.stream), "cudaEventRecord");
}

void SamplingOps::wait(int slot) const { check(cudaEventSynchronize(marks_[slot]), "waiting for the device"); }

}  // namespace imp::cuda
