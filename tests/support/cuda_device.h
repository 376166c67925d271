#pragma once
#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "backend/device_memory.h"
#include "linear/pack_weight.h"
#include "runtime/launch.h"
#include "support/few.h"
#include "support/weight_matrix.h"

namespace imp::test {

/// Values on the device, between two zones of a known pattern: a kernel that writes outside its output is found out.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values) : count_(values.size()), memory_(bytes() + 2 * guard()) {
    std::vector<std::byte> all(memory_.bytes(), kPattern);
    if (count_ > 0) std::memcpy(all.data() + guard(), values.data(), bytes());
    cuda::check(cudaMemcpy(memory_.data(), all.data(), all.size(), cudaMemcpyHostToDevice), "cudaMemcpy");
    // A small copy from pageable memory may still be on its way, and streams that do not block would not wait for it.
    cuda::check(cudaStreamSynchronize(nullptr), "cudaMemcpy");
  }
  T* data() const { return reinterpret_cast<T*>(static_cast<std::byte*>(memory_.data()) + guard()); }

  /// Waits for the device. Fails where a guard zone was written.
  std::vector<T> download() const {
    cuda::check(cudaDeviceSynchronize(), "a kernel");
    std::vector<std::byte> all(memory_.bytes());
    cuda::check(cudaMemcpy(all.data(), memory_.data(), all.size(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    size_t written = 0;
    for (size_t i = 0; i < guard(); ++i) {
      written += all[i] != kPattern;
      written += all[all.size() - 1 - i] != kPattern;
    }
    CHECK(written == 0);
    std::vector<T> values(count_);
    if (count_ > 0) std::memcpy(values.data(), all.data() + guard(), bytes());
    return values;
  }

 private:
  /// Keeps the alignment that cudaMalloc gives. A sanitizer knows where memory ends, and finds reads past it, too.
  static size_t guard() { return few_shapes() ? 0 : 1024; }
  static constexpr std::byte kPattern{0xa5};
  size_t bytes() const { return count_ * sizeof(T); }

  size_t count_;
  cuda::DeviceMemory memory_;
};

/// The stream that tests launch on, and what was launched.
struct TestDevice {
  std::map<std::string, int64_t> launches;
  int num_sms = 0, max_shared_bytes = 0, capability = 0;  // 10 * major + minor

  TestDevice() {
    cuda::check(cudaDeviceGetAttribute(&num_sms, cudaDevAttrMultiProcessorCount, 0), "cudaDeviceGetAttribute");
    cuda::check(cudaDeviceGetAttribute(&max_shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0),
                "cudaDeviceGetAttribute");
    int minor = 0;
    cuda::check(cudaDeviceGetAttribute(&capability, cudaDevAttrComputeCapabilityMajor, 0), "cudaDeviceGetAttribute");
    cuda::check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), "cudaDeviceGetAttribute");
    capability = capability * 10 + minor;
  }
  cuda::LaunchContext context(bool pdl = false) {
    cuda::LaunchContext context;
    context.num_sms = num_sms;
    context.max_shared_bytes = max_shared_bytes;
    context.pdl = pdl;
    context.launches = &launches;
    return context;
  }
};

/// A weight as the backend holds it.
class PackedMatrix {
 public:
  PackedMatrix(const WeightMatrix& matrix, const cuda::LaunchContext& context)
      : source_(matrix.bytes), packed_(std::vector<std::byte>(size_of(matrix), std::byte{0xff})), view_(matrix.view) {
    const int64_t rows = matrix.view.rows, first_part = rows / 3;  // as an upload in two parts does it
    const int64_t row = row_bytes(matrix.view.format, matrix.view.cols);
    cuda::pack_weight(matrix.view.format, source_.data(), 0, first_part, rows, matrix.view.cols, packed_.data(),
                      context);
    cuda::pack_weight(matrix.view.format, source_.data() + first_part * row, first_part, rows - first_part, rows,
                      matrix.view.cols, packed_.data(), context);
    packed_.download();
    view_.data = packed_.data();
    view_.layout = static_cast<int>(cuda::packed_layout_of(matrix.view.format));
  }
  const WeightView& view() const { return view_; }

 private:
  static size_t size_of(const WeightMatrix& m) {
    return static_cast<size_t>(
        cuda::packed_sizes(cuda::packed_layout_of(m.view.format), m.view.format, m.view.rows, m.view.cols).total());
  }
  DeviceArray<std::byte> source_, packed_;
  WeightView view_;
};

}  // namespace imp::test
