#pragma once
#include <cuda_runtime_api.h>

#include <functional>
#include <map>
#include <string>

#include "exec/backend.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// Forward passes by shape: the first of a shape runs as it is, the second is captured, later ones are replayed.
class StepGraphs {
 public:
  StepGraphs() = default;
  ~StepGraphs() { clear(); }
  StepGraphs(const StepGraphs&) = delete;
  StepGraphs& operator=(const StepGraphs&) = delete;

  void run(const StepShape& shape, const LaunchContext& context, const std::function<void()>& forward);
  void clear();

  int64_t captures() const { return captures_; }
  int64_t replays() const { return replays_; }

 private:
  struct Entry {
    cudaGraphExec_t exec = nullptr;
    std::map<std::string, int64_t> launches;  // of one replay
  };
  std::map<StepShape, Entry> entries_;
  int64_t captures_ = 0, replays_ = 0;
};

}  // namespace imp::cuda
