// Reads a buffer far larger than the L2 cache once, 16 bytes a thread at a time, 8 of them in flight: sum of all words,
// kept by nobody. Grid: 4 blocks of 512 an SM, each a contiguous part, so that a pass is a few long streams.
#include <algorithm>

#include "backend/device_memory.h"
#include "runtime/launch.h"
#include "runtime/read_bandwidth.h"

namespace imp::cuda {
namespace {

constexpr int kThreads = 512, kInFlight = 8, kPasses = 6;
constexpr size_t kMostBytes = size_t{2} << 30;

__global__ __launch_bounds__(kThreads) void read_kernel(const uint4* data, size_t count_per_block, unsigned* sink) {
  const uint4* part = data + blockIdx.x * count_per_block;
  uint4 sum = {};
  for (size_t i = threadIdx.x; i < count_per_block; i += kThreads * kInFlight) {
    uint4 values[kInFlight];
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) values[j] = __ldcs(part + i + j * kThreads);
#pragma unroll
    for (const uint4& value : values) sum.x ^= value.x, sum.y ^= value.y, sum.z ^= value.z, sum.w ^= value.w;
  }
  // Nobody reads it; the compiler cannot know, and keeps the loads.
  if ((sum.x | sum.y | sum.z | sum.w) != 0) *sink = 1;
}

struct Event {
  cudaEvent_t event = nullptr;
  Event() { check(cudaEventCreate(&event), "cudaEventCreate"); }
  ~Event() { static_cast<void>(cudaEventDestroy(event)); }
};

}  // namespace

double measure_read_bandwidth() {
  int device = 0, num_sms = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&num_sms, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  const auto blocks = static_cast<size_t>(num_sms) * 4;
  const size_t chunk = size_t{kThreads} * kInFlight;  // of 16 bytes, that a block reads at a time
  const size_t count = std::min(kMostBytes, free / 2) / sizeof(uint4) / blocks / chunk * chunk;
  if (count == 0) return 0;
  const DeviceMemory buffer(blocks * count * sizeof(uint4)), sink(sizeof(unsigned));
  check(cudaMemset(buffer.data(), 0xa5, buffer.bytes()), "cudaMemset");
  const Event begin, end;
  float best_ms = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    check(cudaEventRecord(begin.event), "cudaEventRecord");
    launch({}, "read_memory", read_kernel, static_cast<unsigned>(blocks), kThreads, 0,
           static_cast<const uint4*>(buffer.data()), count, static_cast<unsigned*>(sink.data()));
    check(cudaEventRecord(end.event), "cudaEventRecord");
    check(cudaEventSynchronize(end.event), "measuring the read bandwidth");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin.event, end.event), "cudaEventElapsedTime");
    if (pass == 1 || (pass > 1 && ms < best_ms)) best_ms = ms;  // the first pass loads the kernel
  }
  return best_ms > 0 ? static_cast<double>(buffer.bytes()) / (best_ms * 1e-3) : 0;
}

}  // namespace imp::cuda
