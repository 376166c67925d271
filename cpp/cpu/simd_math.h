#pragma once

namespace imp::cpu {

/// e^x to about 2e-7 relative; 0 below -87.3 (subnormals are not made), e^88 above 88; NaN stays NaN; exp(0) is 1.
/// x = n ln2 + r with |r| <= ln2 / 2; e^r by its Taylor series to r^6, whose remainder is below 1.2e-7.
template <class V>
typename V::Reg exp_simd(typename V::Reg x) {
  using Reg = typename V::Reg;
  const Reg lowest = V::set(-87.3f);
  const Reg clamped = V::min(V::set(88.0f), V::max(lowest, x));
  const Reg n = V::round(V::mul(clamped, V::set(1.44269504f)));
  Reg r = V::fnma(n, V::set(0.693359375f), clamped);  // ln2 in two parts, the first with few bits
  r = V::fnma(n, V::set(-2.12194440e-4f), r);
  Reg p = V::set(1.0f / 720);
  p = V::fma(p, r, V::set(1.0f / 120));
  p = V::fma(p, r, V::set(1.0f / 24));
  p = V::fma(p, r, V::set(1.0f / 6));
  p = V::fma(p, r, V::set(0.5f));
  p = V::fma(p, r, V::set(1.0f));
  p = V::fma(p, r, V::set(1.0f));
  return V::where_less(x, lowest, V::zero(), V::scale_pow2(p, n));
}

/// tanh x to about 4e-7 relative: a series near 0, where 1 - 2 / (e^2x + 1) cancels.
template <class V>
typename V::Reg tanh_simd(typename V::Reg x) {
  using Reg = typename V::Reg;
  const Reg far = V::sub(V::set(1.0f), V::div(V::set(2.0f), V::add(exp_simd<V>(V::add(x, x)), V::set(1.0f))));
  const Reg s = V::mul(x, x);
  Reg p = V::set(62.0f / 2835);
  p = V::fma(p, s, V::set(-17.0f / 315));
  p = V::fma(p, s, V::set(2.0f / 15));
  p = V::fma(p, s, V::set(-1.0f / 3));
  const Reg near = V::fma(V::mul(p, s), x, x);
  return V::where_less(V::abs(x), V::set(0.25f), near, far);
}

}  // namespace imp::cpu
