#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/half.h"
#include "cpu/linear_kernels.h"

// The kernels of cpu/linear_kernels.h in plain C++: fp32 only, any format, any machine.

namespace imp::cpu {
namespace {

constexpr int kLanes = 8;

void make_row(const float* x, const float* norm_weight, float epsilon, float skip_threshold, int64_t k, float* out) {
  float scale = 1;
  if (norm_weight) {
    double squares = 0;
    for (int64_t c = 0; c < k; ++c) squares += static_cast<double>(x[c]) * x[c];
    scale = static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(k) + epsilon));
  }
  for (int64_t c = 0; c < k; ++c) out[c] = norm_weight ? x[c] * scale * norm_weight[c] : x[c];
  std::fill(out + k, out + padded_k(k), 0.0f);
  if (skip_threshold <= 0) return;
  for (int64_t begin = 0; begin < k; begin += kGroup) {
    float amax = 0;
    for (int64_t c = begin; c < begin + kGroup; ++c) amax = std::max(amax, std::fabs(out[c]));
    if (amax < skip_threshold) std::fill(out + begin, out + begin + kGroup, 0.0f);
  }
}

float activation_of(Activation activation, float g) {
  if (activation == Activation::silu) return g / (1.0f + std::exp(-g));
  return 0.5f * g * (1.0f + std::tanh(0.7978845608f * (g + 0.044715f * g * g * g)));
}

void activate(Activation activation, const float* g, const float* u, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = activation_of(activation, g[i]) * u[i];
}

void gemm_f32(const float* tile, int tiles, int64_t k, const float* x, int64_t x_stride, int64_t m, float* out,
              int64_t out_stride) {
  for (int i = 0; i < tiles; ++i) {
    const float* w = tile + i * padded_k(k) * kLanes;
    for (int64_t t = 0; t < m; ++t) {
      float sums[kLanes] = {};
      for (int64_t c = 0; c < k; ++c) {
        for (int lane = 0; lane < kLanes; ++lane) sums[lane] += w[c * kLanes + lane] * x[t * x_stride + c];
      }
      std::copy(sums, sums + kLanes, out + t * out_stride + i * kLanes);
    }
  }
}

/// One chunk of a row as fp32.
template <WeightFormat kFormat>
void dequantize_chunk(const uint8_t* row, int64_t k, int64_t begin, float* to) {
  dequantize(kFormat, row + imp::row_bytes(kFormat, begin), to, std::min<int64_t>(kChunk, k - begin));
}

template <WeightFormat kFormat>
void gemv_f32(const WeightRows& w, const float* x, float* out) {
  float values[kChunk];
  for (int64_t r = 0; r < w.rows; ++r) {
    float sums[kLanes] = {};
    for (int64_t begin = 0; begin < w.k; begin += kChunk) {
      if (w.k - begin < kChunk) std::fill(values, values + kChunk, 0.0f);
      dequantize_chunk<kFormat>(w.data + r * w.row_bytes, w.k, begin, values);
      for (int i = 0; i < kChunk; ++i) sums[i % kLanes] += values[i] * x[begin + i];
    }
    out[r] = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
  }
}

template <WeightFormat kFormat>
void unpack_f32(const WeightRows& w, bool round_to_f16, float* tile) {
  float values[kChunk];
  for (int lane = 0; lane < kLanes; ++lane) {
    const uint8_t* row = w.data + std::min<int64_t>(lane, w.rows - 1) * w.row_bytes;
    for (int64_t begin = 0; begin < w.k; begin += kChunk) {
      dequantize_chunk<kFormat>(row, w.k, begin, values);
      const int64_t count = std::min<int64_t>(kChunk, w.k - begin);
      for (int64_t i = 0; i < count; ++i)
        tile[(begin + i) * kLanes + lane] = round_to_f16 ? f16_to_f32(f32_to_f16(values[i])) : values[i];
    }
  }
}

template <WeightFormat kFormat>
constexpr FormatKernels kernels() {
  return {nullptr, nullptr, nullptr, nullptr, gemv_f32<kFormat>, unpack_f32<kFormat>};
}

constexpr LinearKernelSet make_kernel_set() {
  using enum WeightFormat;
  return {{kLanes, make_row, nullptr, activate, gemm_f32},
          {kernels<f32>(), kernels<f16>(), kernels<bf16>(), kernels<q4_0>(), kernels<q4_1>(), kernels<q5_0>(),
           kernels<q5_1>(), kernels<q8_0>(), kernels<q2_k>(), kernels<q3_k>(), kernels<q4_k>(), kernels<q5_k>(),
           kernels<q6_k>(), kernels<iq4_nl>(), kernels<iq4_xs>(), kernels<mxfp4>(), kernels<nvfp4>()}};
}

}  // namespace

const LinearKernelSet& linear_kernels_scalar() {
  static constexpr LinearKernelSet kSet = make_kernel_set();
  return kSet;
}

}  // namespace imp::cpu
