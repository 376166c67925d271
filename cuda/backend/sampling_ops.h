#pragma once
#include <functional>

#include "backend/device_memory.h"
#include "exec/backend.h"
#include "runtime/launch.h"
#include "sample/sample_filtered.h"
#include "sample/sample_greedy.h"

namespace imp::cuda {

/// Drawing tokens, and the events that say when they are there.
class SamplingOps {
 public:
  SamplingOps() = default;
  ~SamplingOps();
  SamplingOps(const SamplingOps&) = delete;
  SamplingOps& operator=(const SamplingOps&) = delete;

  static uint64_t scratch_bytes(const StepLimits& limits);
  /// `allocate` gives zeroed device memory.
  void open(const StepLimits& limits, const std::function<void*(uint64_t)>& allocate);
  void sample(const SampleArgs& args, const LaunchContext& context) const;
  void mark(int slot, const LaunchContext& context) const;
  void wait(int slot) const;

 private:
  cudaEvent_t marks_[Backend::kMarkSlots] = {};
  GreedyScratch greedy_ = {};
  float* adjusted_ = nullptr;  // [max_sequences, vocab_size]
};

}  // namespace imp::cuda
