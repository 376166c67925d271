#pragma once
#include <cmath>

#include "cpu/kernels.h"

namespace imp::cpu {

/// sum of x[i]^2: four chains of lanes in fp32, joined in a fixed order.
template <class V>
float sum_of_squares(const float* x, int64_t n) {
  constexpr int W = V::kWidth;
  typename V::Reg sums[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  int64_t c = 0;
  for (; c + 4 * W <= n; c += 4 * W) {
    for (int i = 0; i < 4; ++i) {
      const auto v = V::load(x + c + i * W);
      sums[i] = V::fma(v, v, sums[i]);
    }
  }
  for (; c < n; c += W) {
    const auto v = n - c >= W ? V::load(x + c) : V::load_part(x + c, static_cast<int>(n - c));
    sums[0] = V::fma(v, v, sums[0]);
  }
  return V::sum(V::add(V::add(sums[0], sums[1]), V::add(sums[2], sums[3])));
}

/// Bytes moved: read x twice (the second time from L1) and weight, write y.
/// Oracle: reference/rms_norm.cpp.
template <class V>
void rms_norm_rows(const RmsNormArgs& args, Range rows) {
  constexpr int W = V::kWidth;
  const int64_t n = args.x.cols;
  for (int64_t t = rows.begin; t < rows.end; ++t) {
    const float* x = static_cast<const float*>(args.x.data) + t * args.x.row_stride;
    const bool adds = args.add_to.data != nullptr;
    const TensorView& target = adds ? args.add_to : args.y;
    float* y = static_cast<float*>(target.data) + t * target.row_stride;
    const float mean = sum_of_squares<V>(x, n) / static_cast<float>(n);
    const auto scale = V::set(1.0f / std::sqrt(mean + args.epsilon));
    int64_t c = 0;
    for (; c + W <= n; c += W) {
      const auto value = V::mul(V::mul(V::load(x + c), scale), V::load(args.weight + c));
      V::store(y + c, adds ? V::add(V::load(y + c), value) : value);
    }
    if (c == n) continue;
    const int rest = static_cast<int>(n - c);
    const auto value = V::mul(V::mul(V::load_part(x + c, rest), scale), V::load_part(args.weight + c, rest));
    V::store_part(y + c, adds ? V::add(V::load_part(y + c, rest), value) : value, rest);
  }
}

}  // namespace imp::cpu
