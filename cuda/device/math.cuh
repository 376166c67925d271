#pragma once
#include <cuda_runtime.h>

namespace imp::cuda {

inline constexpr float kLog2e = 1.4426950408889634f;

/// 2^x, off by 2^-22 at most; results below the normal numbers are 0.
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// cap * tanh(x / cap) as cap * (1 - 2 / (1 + e^(2x / cap))): off by some 1e-7 * cap.
__device__ __forceinline__ float soft_cap(float x, float cap) {
  return cap * (1 - __fdividef(2.0f, 1 + fast_exp2(x * (2 * kLog2e / cap))));
}

}  // namespace imp::cuda
