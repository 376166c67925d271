#pragma once
#include <cuda.h>

#include <cstdint>
#include <initializer_list>

namespace imp::cuda {

/// A tensor of 16-bit elements and the box of it that one copy brings (device/tma.cuh), innermost dimension first. The
/// innermost stride is one element; `strides` are the others, in bytes, multiples of 16, one fewer than dimensions.
struct TensorMapArgs {
  const void* data;  // aligned to 16 bytes
  bool bf16;         // else f16
  std::initializer_list<uint64_t> dims;
  std::initializer_list<uint64_t> strides;
  std::initializer_list<uint32_t> box;  // at most 256 each; the innermost is 64 elements: 128 bytes, swizzled
};

/// Takes about a microsecond on the host and touches no device memory: launchers make one a call.
CUtensorMap make_tensor_map(const TensorMapArgs& args);

}  // namespace imp::cuda
