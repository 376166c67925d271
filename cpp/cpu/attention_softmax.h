#pragma once
#include "cpu/simd_math.h"

// Row operations shared by the attention kernels. `count` of scores is a multiple of 16.

namespace imp::cpu {

inline constexpr float kInfinity = __builtin_huge_valf();
/// Below every score and finite, so that a row which has seen no key yet needs no special case.
inline constexpr float kLowest = -1e30f;

template <class V>
void cap_scores(float* scores, int count, float cap) {
  const auto high = V::set(cap), inverse = V::set(1.0f / cap);
  for (int j = 0; j < count; j += V::kWidth)
    V::store(scores + j, V::mul(high, tanh_simd<V>(V::mul(V::load(scores + j), inverse))));
}

/// The highest of `scores` and `start`; NaN is passed over here and comes out of exponentiate().
template <class V>
float highest_score(const float* scores, int count, float start) {
  auto highest = V::set(start);
  for (int j = 0; j < count; j += V::kWidth) highest = V::max(V::load(scores + j), highest);
  return V::max_of(highest);
}

/// scores[j] = exp(scores[j] - highest); gives their sum, added in one chain so that further zeros do not change it.
template <class V>
float exponentiate(float* scores, int count, float highest) {
  const auto shift = V::set(highest);
  auto sum = V::zero();
  for (int j = 0; j < count; j += V::kWidth) {
    const auto p = exp_simd<V>(V::sub(V::load(scores + j), shift));
    V::store(scores + j, p);
    sum = V::add(sum, p);
  }
  return V::sum(sum);
}

template <class V>
float exp_one(float x) {
  return V::max_of(exp_simd<V>(V::set(x)));
}

/// x[i] *= factor; count is a multiple of 16.
template <class V>
void scale_span(float* x, int count, float factor) {
  const auto f = V::set(factor);
  for (int i = 0; i < count; i += V::kWidth) V::store(x + i, V::mul(V::load(x + i), f));
}

/// to[i] = factor * from[i], any count.
template <class V>
void copy_scaled(float* to, const float* from, int count, float factor) {
  constexpr int W = V::kWidth;
  const auto f = V::set(factor);
  int i = 0;
  for (; i + W <= count; i += W) V::store(to + i, V::mul(V::load(from + i), f));
  if (i < count) V::store_part(to + i, V::mul(V::load_part(from + i, count - i), f), count - i);
}

}  // namespace imp::cpu
