#pragma once
#include <cuda_runtime_api.h>

#include <utility>

#include "core/format_bytes.h"
#include "core/text.h"
#include "runtime/check.h"

namespace imp::cuda {

/// Owned device memory, or pinned host memory.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  explicit DeviceMemory(size_t bytes) : bytes_(bytes) {
    if (bytes > 0) check(cudaMalloc(&data_, bytes), cat("taking ", format_bytes(bytes), " of device memory").c_str());
  }
  ~DeviceMemory() { release(); }
  DeviceMemory(DeviceMemory&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    release();
    data_ = std::exchange(other.data_, nullptr);
    bytes_ = other.bytes_;
    return *this;
  }
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void release() {
    // A destructor has nobody to tell; a device that failed was reported by the call that saw it first.
    if (data_) static_cast<void>(cudaFree(data_));
    data_ = nullptr;
  }
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

class PinnedMemory {
 public:
  explicit PinnedMemory(size_t bytes) : bytes_(bytes) {
    check(cudaMallocHost(&data_, bytes), cat("taking ", format_bytes(bytes), " of pinned host memory").c_str());
  }
  ~PinnedMemory() { static_cast<void>(cudaFreeHost(data_)); }
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace imp::cuda
