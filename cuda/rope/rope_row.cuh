#pragma once
#include <cuda_runtime.h>

#include "device/reduce.cuh"

namespace imp::cuda {

// One head of q or k in the registers of a warp: norm over the head, then rotation. Two kernels do it (qk_rope_kv, and
// decode attention, which does it on the way): both through these functions, in which every rounding is spelled out, so
// that they give the same bits.

/// The two dims that turn together as pair `i` of head_dim / 2. Dims that do not turn are paired with their neighbour.
__device__ __forceinline__ int2 rope_pair(int i, int rotary_dim, bool interleaved) {
  const int half = rotary_dim / 2;
  if (i >= half || interleaved) return make_int2(2 * i, 2 * i + 1);
  return make_int2(i, i + half);
}

/// (cos, sin) of pair `i` at `position`, with the magnitude; (1, 0) for dims that do not turn.
__device__ __forceinline__ float2 rope_angle(int i, int position, int rotary_dim, const float* inv_freq,
                                             float magnitude) {
  if (i >= rotary_dim / 2) return make_float2(1, 0);
  float sine, cosine;
  sincosf(static_cast<float>(position) * inv_freq[i], &sine, &cosine);
  return make_float2(cosine * magnitude, sine * magnitude);
}

/// Lane l holds pairs l, l + 32, ...; what lies past the head is zero.
template <int kPairs>
struct RopeRow {
  float x[kPairs], y[kPairs];

  __device__ __forceinline__ void load(const float* row, int head_dim, int rotary_dim, bool interleaved) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int i = lane + 32 * j;
      const int2 dims = rope_pair(i, rotary_dim, interleaved);
      x[j] = i < head_dim / 2 ? row[dims.x] : 0;
      y[j] = i < head_dim / 2 ? row[dims.y] : 0;
    }
  }
  /// Divides by the root of the mean square, times `weight`.
  __device__ __forceinline__ void norm(const RopeRow& weight, int head_dim, float epsilon) {
    float sum_sq = 0;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) sum_sq = __fmaf_rn(y[j], y[j], __fmaf_rn(x[j], x[j], sum_sq));
    const float scale = rsqrtf(__fadd_rn(__fdiv_rn(warp_sum(sum_sq), static_cast<float>(head_dim)), epsilon));
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      x[j] = __fmul_rn(x[j], __fmul_rn(scale, weight.x[j]));
      y[j] = __fmul_rn(y[j], __fmul_rn(scale, weight.y[j]));
    }
  }
  __device__ __forceinline__ void rotate(int j, float2 angle) {
    const float a = x[j], b = y[j];
    x[j] = __fmaf_rn(a, angle.x, -__fmul_rn(b, angle.y));
    y[j] = __fmaf_rn(b, angle.x, __fmul_rn(a, angle.y));
  }
};

}  // namespace imp::cuda
