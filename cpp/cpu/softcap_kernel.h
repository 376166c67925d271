#pragma once
#include "cpu/kernels.h"
#include "cpu/simd_math.h"

namespace imp::cpu {

template <class V>
void softcap_span(float* x, int64_t count, float cap) {
  constexpr int W = V::kWidth;
  const auto high = V::set(cap), inverse = V::set(1.0f / cap);
  int64_t c = 0;
  for (; c + W <= count; c += W) V::store(x + c, V::mul(high, tanh_simd<V>(V::mul(V::load(x + c), inverse))));
  if (c == count) return;
  const int rest = static_cast<int>(count - c);
  V::store_part(x + c, V::mul(high, tanh_simd<V>(V::mul(V::load_part(x + c, rest), inverse))), rest);
}

}  // namespace imp::cpu
