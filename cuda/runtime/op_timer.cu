#include <algorithm>
#include <chrono>

#include "runtime/op_timer.h"
#include "runtime/read_bandwidth.h"

namespace imp::cuda {
namespace {

constexpr double kLongestHold = 5e-3;  // seconds; a step that calls a library for the first time takes longer

__global__ void hold_kernel(unsigned long long nanoseconds) {
  unsigned long long begin, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
  do {
    __nanosleep(1000);
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  } while (now - begin < nanoseconds);
}

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

double tensor_flops_per_s(int major, int minor, int num_sms, double clock_hz) {
  const int capability = 10 * major + minor;
  double per_clock = 0;  // of an SM
  if (capability == 80) per_clock = 2048;
  if (capability == 86 || capability == 89 || major == 12) per_clock = 512;
  if (major == 9) per_clock = 4096;
  if (major == 10) per_clock = 8192;
  return per_clock * num_sms * clock_hz;
}

OpTimer::OpTimer() : read_bytes_per_s_(measure_read_bandwidth()) {
  int device = 0, major = 0, minor = 0, num_sms = 0, clock_khz = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&num_sms, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&clock_khz, cudaDevAttrClockRate, device), "cudaDeviceGetAttribute");
  flops_per_s_ = tensor_flops_per_s(major, minor, num_sms, 1e3 * clock_khz);
}

OpTimer::~OpTimer() {
  for (cudaEvent_t event : events_) static_cast<void>(cudaEventDestroy(event));
}

void OpTimer::record(const LaunchContext& context) {
  if (num_recorded_ == events_.size()) {
    cudaEvent_t event = nullptr;
    check(cudaEventCreate(&event), "cudaEventCreate");
    events_.push_back(event);
  }
  check(cudaEventRecord(events_[num_recorded_++], context.stream), "cudaEventRecord");
}

void OpTimer::begin_step(const LaunchContext& context) {
  num_recorded_ = 0;
  marks_.clear();
  began_s_ = now_s();
  record(context);
  LaunchContext uncounted = context;
  uncounted.launches = nullptr, uncounted.pdl_launches = nullptr;
  const double hold = std::min(kLongestHold, 1.1 * queueing_s_);
  if (hold > 0) launch(uncounted, "hold", hold_kernel, 1, 1, 0, static_cast<unsigned long long>(1e9 * hold));
  record(context);
}

void OpTimer::end_op(std::string_view op, std::function<OpCost()> cost, const LaunchContext& context) {
  marks_.push_back({std::string(op), std::move(cost)});
  record(context);
}

void OpTimer::end_step(const LaunchContext& context) {
  queueing_s_ = now_s() - began_s_;
  check(cudaStreamSynchronize(context.stream), "waiting for a profiled step");
  const auto add = [&](const std::string& op, size_t event, const OpCost& cost) {
    float ms = 0;
    check(cudaEventElapsedTime(&ms, events_[event], events_[event + 1]), "cudaEventElapsedTime");
    OpProfile& figures = figures_[op];
    ++figures.calls;
    figures.seconds += 1e-3 * ms;
    figures.bytes += cost.bytes;
    figures.flops += cost.flops;
    const double reading = read_bytes_per_s_ > 0 ? cost.bytes / read_bytes_per_s_ : 0;
    const double computing = flops_per_s_ > 0 ? cost.flops / flops_per_s_ : 0;
    figures.limit_seconds += std::max(reading, computing);
  };
  add("queueing", 0, {});
  for (size_t i = 0; i < marks_.size(); ++i) add(marks_[i].op, i + 1, marks_[i].cost());
}

}  // namespace imp::cuda
