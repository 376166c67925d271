#pragma once
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "exec/backend.h"
#include "ops/op_cost.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// diagnostics.profile: what each kind of op took on the device, between events around it. So that ops follow each
/// other as closely as in a replayed step, the device is held back at the start of a step for as long as calling the
/// ops of the step before took; that time stands under "queueing". Early launches do not overlap across an event.
class OpTimer {
 public:
  /// Measures the device's read bandwidth, which limits are held against.
  OpTimer();
  ~OpTimer();
  OpTimer(const OpTimer&) = delete;
  OpTimer& operator=(const OpTimer&) = delete;

  void begin_step(const LaunchContext& context);
  /// After an op was called. `cost` is asked when the step is through, so that it may read the device's arrays.
  void end_op(std::string_view op, std::function<OpCost()> cost, const LaunchContext& context);
  /// Waits for the step and adds its times up.
  void end_step(const LaunchContext& context);

  const std::map<std::string, OpProfile>& figures() const { return figures_; }

 private:
  struct Mark {
    std::string op;
    std::function<OpCost()> cost;
  };
  void record(const LaunchContext& context);

  std::vector<cudaEvent_t> events_;  // [0] the start, [1] the end of the hold, then one after each op
  size_t num_recorded_ = 0;
  std::vector<Mark> marks_;
  double began_s_ = 0, queueing_s_ = 0;  // of this step, on the host's clock; of the step before
  double read_bytes_per_s_ = 0, flops_per_s_ = 0;
  std::map<std::string, OpProfile> figures_;
};

/// Most operations a second of the tensor cores in bf16 with fp32 sums, without sparsity; 0 where it is not known.
double tensor_flops_per_s(int major, int minor, int num_sms, double clock_hz);

}  // namespace imp::cuda
