#pragma once
#include <cstdint>

#include "model/spec.h"
#include "quant/format.h"

// Between linear.cpp, which knows threads and meaning, and the files that are compiled once for each instruction set,
// which know arithmetic. Plain pointers only: a template or inline function of a common header that such a file
// instantiated might be merged by the linker with that of a file for any machine.

namespace imp::cpu {

inline constexpr int kGroup = 32;   // weights and activations that share an activation scale
inline constexpr int kChunk = 256;  // unit of the kernels along k; rows of activations are padded to it with zeros
inline constexpr int kMaxLanes = 16;

constexpr int64_t padded_k(int64_t k) { return (k + kChunk - 1) / kChunk * kChunk; }

/// Activations as int8: x[t, c] ~ scale[t, c / 32] * codes[t, c]. `sum32` and `sum16` are scale * (sum of the codes)
/// over each 32 and each 16. Rows of codes have padded_k(k) elements, the rest in proportion; padding is zero.
struct QuantizedRows {
  int8_t* codes;
  float* scale;
  float* sum32;
  float* sum16;
  int64_t k_padded;

  QuantizedRows from(int64_t row) const {
    return {codes + row * k_padded, scale + row * (k_padded / 32), sum32 + row * (k_padded / 32),
            sum16 + row * (k_padded / 16), k_padded};
  }
};

/// `rows` rows of a weight, `row_bytes` apart.
struct WeightRows {
  const uint8_t* data;
  int64_t row_bytes;
  int64_t rows;
  int64_t k;
};

/// One row-tile of codes: codes[(c / 4)][lane][c % 4], scale and min[sub-group][lane]; w = scale * code - min.
struct CodeTile {
  uint8_t* codes;
  float* scale;
  float* min;
};

/// Kernels of one instruction set that no format matters to.
struct CommonKernels {
  int lanes;  // rows of a tile
  /// out[0, padded_k) = x or its RMS norm (norm_weight set), quiet 32-blocks zeroed, padded with zeros.
  void (*make_row)(const float* x, const float* norm_weight, float epsilon, float skip_threshold, int64_t k,
                   float* out);
  /// Quantizes one row that make_row() made.
  void (*quantize)(const float* row, const QuantizedRows& to);
  /// y[i] = activation(g[i]) * u[i]
  void (*activate)(Activation activation, const float* g, const float* u, float* y, int64_t n);
  /// out[t * out_stride + tile * lanes + lane] = tile's row . x[t], for `tiles` (1 or 2) consecutive tiles, k * lanes
  /// floats each.
  void (*gemm_f32)(const float* tile, int tiles, int64_t k, const float* x, int64_t x_stride, int64_t m, float* out,
                   int64_t out_stride);
};

/// Kernels of one instruction set for one format. Null: there is none.
struct FormatKernels {
  /// out[t * out_stride + row] for 1 to 4 tokens.
  void (*gemv_int)(const WeightRows& w, const QuantizedRows& x, int m, float* out, int64_t out_stride);
  /// One token, only the groups listed.
  void (*gemv_skip)(const WeightRows& w, const QuantizedRows& x, const int32_t* groups, int64_t num_groups, float* out);
  /// The first w.rows lanes hold the rows, the others repeat the last.
  void (*unpack_codes)(const WeightRows& w, const CodeTile& tile);
  /// As gemm_f32, from `tiles` (1 or 2) tiles.
  void (*gemm_int)(const CodeTile* tile, int tiles, int64_t k, const QuantizedRows& x, int64_t m, float* out,
                   int64_t out_stride);
  void (*gemv_f32)(const WeightRows& w, const float* x, float* out);
  void (*unpack_f32)(const WeightRows& w, bool round_to_f16, float* tile);
};

struct LinearKernelSet {
  CommonKernels common;
  FormatKernels formats[kNumWeightFormats];
};

const LinearKernelSet& linear_kernels_scalar();
const LinearKernelSet& linear_kernels_avx2();
const LinearKernelSet& linear_kernels_avx512();

}  // namespace imp::cpu
