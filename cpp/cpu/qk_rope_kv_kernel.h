#pragma once
#include <cmath>

#include "cpu/kernels.h"
#include "cpu/rms_norm_kernel.h"

namespace imp::cpu {

/// One head: RMS norm where `weight` is set, then the rotation. head_dim is a multiple of 8.
template <class V>
struct HeadRotation {
  using Reg = typename V::Reg;
  static constexpr int W = V::kWidth;

  static void norm(float* head, int head_dim, const float* weight, float epsilon) {
    const float mean = sum_of_squares<V>(head, head_dim) / static_cast<float>(head_dim);
    const Reg scale = V::set(1.0f / std::sqrt(mean + epsilon));
    for (int d = 0; d < head_dim; d += W) {
      const int count = head_dim - d;
      if (count >= W)
        V::store(head + d, V::mul(V::mul(V::load(head + d), scale), V::load(weight + d)));
      else
        V::store_part(head + d, V::mul(V::mul(V::load_part(head + d, count), scale), V::load_part(weight + d, count)),
                      count);
    }
  }

  /// Pairs (i, i + pairs).
  static void rotate_halves(float* head, const float* cosines, const float* sines, int pairs) {
    float *low = head, *high = head + pairs;
    int i = 0;
    for (; i + W <= pairs; i += W) {
      const Reg a = V::load(low + i), b = V::load(high + i), c = V::load(cosines + i), s = V::load(sines + i);
      V::store(low + i, V::fnma(b, s, V::mul(a, c)));
      V::store(high + i, V::fma(a, s, V::mul(b, c)));
    }
    if (i == pairs) return;
    const int rest = pairs - i;
    const Reg a = V::load_part(low + i, rest), b = V::load_part(high + i, rest);
    const Reg c = V::load_part(cosines + i, rest), s = V::load_part(sines + i, rest);
    V::store_part(low + i, V::fnma(b, s, V::mul(a, c)), rest);
    V::store_part(high + i, V::fma(a, s, V::mul(b, c)), rest);
  }

  /// Pairs (2i, 2i + 1).
  static void rotate_neighbours(float* head, const float* cosines, const float* sines, int pairs) {
    int i = 0;
    for (; i + W / 2 <= pairs; i += W / 2) {
      const Reg x = V::load(head + 2 * i);
      const Reg crossed = V::mul(V::swap_neighbours(x), V::load_twice(sines + i));
      V::store(head + 2 * i, V::fma_sub_add(x, V::load_twice(cosines + i), crossed));
    }
    for (; i < pairs; ++i) {
      const float a = head[2 * i], b = head[2 * i + 1];
      head[2 * i] = a * cosines[i] - b * sines[i];
      head[2 * i + 1] = b * cosines[i] + a * sines[i];
    }
  }

  static void store_f16(uint16_t* to, const float* from, int count) {
    int d = 0;
    for (; d + W <= count; d += W) V::store_f16(to + d, V::load(from + d));
    if (d < count) V::store_f16_part(to + d, V::load_part(from + d, count - d), count - d);
  }
};

template <class V>
void qk_rope_kv_rows(const QkRopeKvArgs& args, const float* cos_sin, Range tokens) {
  using Head = HeadRotation<V>;
  const int hd = args.head_dim, pairs = args.rotary_dim / 2;
  const int num_heads = static_cast<int>(args.q.cols / hd), num_kv_heads = args.cache.num_kv_heads;
  const int block_size = args.cache.block_size;
  const bool halves = args.pairing == RopePairing::half_split;
  int s = 0;
  for (int64_t t = tokens.begin; t < tokens.end; ++t) {
    while (t >= args.batch.query_start[s + 1]) ++s;
    const float *cosines = cos_sin + t * args.rotary_dim, *sines = cosines + pairs;
    float* q = static_cast<float*>(args.q.data) + t * args.q.row_stride;
    float* k = static_cast<float*>(args.k.data) + t * args.k.row_stride;
    const float* v = static_cast<const float*>(args.v.data) + t * args.v.row_stride;
    const int position = args.batch.positions[t];
    const int64_t block = args.batch.block_tables[int64_t{s} * args.batch.block_table_stride + position / block_size];
    for (int h = 0; h < num_heads + num_kv_heads; ++h) {
      const bool is_q = h < num_heads;
      float* head = is_q ? q + h * hd : k + (h - num_heads) * hd;
      const float* weight = is_q ? args.q_norm : args.k_norm;
      if (weight) Head::norm(head, hd, weight, args.norm_epsilon);
      if (halves)
        Head::rotate_halves(head, cosines, sines, pairs);
      else
        Head::rotate_neighbours(head, cosines, sines, pairs);
    }
    for (int h = 0; h < num_kv_heads; ++h) {
      const int64_t offset = ((block * num_kv_heads + h) * block_size + position % block_size) * hd;
      Head::store_f16(static_cast<uint16_t*>(args.cache.k) + offset, k + h * hd, hd);
      Head::store_f16(static_cast<uint16_t*>(args.cache.v) + offset, v + h * hd, hd);
    }
  }
}

}  // namespace imp::cpu
