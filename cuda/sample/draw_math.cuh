#pragma once
#include <cstdint>

// The arithmetic of cpp/sampling on a device, operation by operation, so that equal logits and seeds give equal tokens.
// The intrinsics keep the compiler from contracting a product and a sum into one rounding.

namespace imp::cuda {

/// See exp_of_negative() in sampling/row.cpp.
__device__ inline float exp_of_negative(float x) {
  constexpr float kShift = 12582912.0f;
  if (!(x >= -87.0f)) return 0;
  const float shifted = __fadd_rn(__fmul_rn(x, 1.44269504f), kShift);
  const float n = __fsub_rn(shifted, kShift);
  const float r = __fsub_rn(__fsub_rn(x, __fmul_rn(n, 0.693359375f)), __fmul_rn(n, -2.12194440e-4f));
  const auto step = [&](float sum, float next) { return __fadd_rn(__fmul_rn(sum, r), next); };
  float sum = 1.0f / 5040;
  sum = step(sum, 1.0f / 720);
  sum = step(sum, 1.0f / 120);
  sum = step(sum, 1.0f / 24);
  sum = step(sum, 1.0f / 6);
  sum = step(sum, 0.5f);
  sum = step(sum, 1.0f);
  sum = step(sum, 1.0f);
  const int exponent = __float_as_int(shifted) - __float_as_int(kShift);
  return __fmul_rn(sum, __int_as_float((exponent + 127) << 23));
}

__device__ inline float weight_of(float logit, float max, float temperature) {
  return exp_of_negative(__fdiv_rn(__fsub_rn(logit, max), temperature));
}

/// See penalized() in sampling/processors.cpp.
__device__ inline float penalized(float logit, int count, float repetition, float frequency, float presence) {
  logit = logit > 0 ? __fdiv_rn(logit, repetition) : __fmul_rn(logit, repetition);
  return fminf(__fsub_rn(__fsub_rn(logit, __fmul_rn(frequency, static_cast<float>(count))), presence), 1e30f);
}

/// See counter_uniform() in sampling/philox.cpp; the position's and the stream's high words are zero.
__device__ inline double counter_uniform(uint32_t seed_low, uint32_t seed_high, uint32_t stream, uint32_t position) {
  uint32_t c0 = position, c1 = 0, c2 = stream, c3 = 0;
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t high_0 = __umulhi(0xd2511f53u, c0), low_0 = 0xd2511f53u * c0;
    const uint32_t high_1 = __umulhi(0xcd9e8d57u, c2), low_1 = 0xcd9e8d57u * c2;
    c0 = high_1 ^ c1 ^ seed_low;
    c1 = low_1;
    c2 = high_0 ^ c3 ^ seed_high;
    c3 = low_0;
    seed_low += 0x9e3779b9u;
    seed_high += 0xbb67ae85u;
  }
  const auto mantissa = (static_cast<unsigned long long>(c1) << 32 | c0) >> 11;
  return static_cast<double>(mantissa) * 0x1p-53;
}

/// Larger floats have larger bits; 0 is below every number's. -0 equals 0.
__device__ inline unsigned ordered_bits(float x) {
  const unsigned bits = __float_as_uint(x == 0 ? 0.0f : x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float from_ordered_bits(unsigned bits) {
  return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

}  // namespace imp::cuda
