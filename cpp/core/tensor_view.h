#pragma once
#include <cassert>
#include <cstddef>
#include <cstdint>

namespace imp {

enum class DType : uint8_t { f32, f16, bf16, i8, i32 };

constexpr int dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::f32: return 4;
    case DType::f16: return 2;
    case DType::bf16: return 2;
    case DType::i8: return 1;
    case DType::i32: return 4;
  }
  return 0;
}

template <class T>
constexpr DType dtype_of = DType::f32;
template <>
inline constexpr DType dtype_of<int8_t> = DType::i8;
template <>
inline constexpr DType dtype_of<int32_t> = DType::i32;

/// A row-major matrix of activations that this code does not own, in the backend's memory.
/// Element (r, c) is at data[r * row_stride + c], in elements of `dtype`.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::f32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;  // elements

  template <class T>
  T* row(int64_t r) const {
    assert(dtype == dtype_of<T>);
    return static_cast<T*>(data) + r * row_stride;
  }
  /// The first `n` rows.
  TensorView head(int64_t n) const { return {data, dtype, n, cols, row_stride}; }
};

inline TensorView f32_view(float* data, int64_t rows, int64_t cols) { return {data, DType::f32, rows, cols, cols}; }

}  // namespace imp
