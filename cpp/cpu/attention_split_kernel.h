#pragma once
#include "cpu/attention_softmax.h"
#include "cpu/kernels.h"

// Attention for one query token: the heads of a group share each pass over the keys, which are read once, as f16, in
// the order of the cache. Scores of the whole split first, then softmax, then the weighted values.
// Bytes moved: the split's keys and values, 4 * head_dim a key and kv head.

namespace imp::cpu {

/// scores[i * score_stride + j] = q_i . k_j for R queries and 8 keys.
template <class V, int R>
void dot_8_keys(const float* q, int64_t q_stride, const uint16_t* k, int hd, float* scores, int64_t score_stride) {
  constexpr int W = V::kWidth;
  typename V::Reg sums[R][8];
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) sums[i][j] = V::zero();
  }
  int d = 0;
  for (; d + W <= hd; d += W) {
    typename V::Reg query[R];
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) query[i] = V::load(q + i * q_stride + d);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      const auto key = V::load_f16(k + j * hd + d);
#pragma GCC unroll 4
      for (int i = 0; i < R; ++i) sums[i][j] = V::fma(query[i], key, sums[i][j]);
    }
  }
  if (d < hd) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      const auto key = V::load_f16_part(k + j * hd + d, hd - d);
#pragma GCC unroll 4
      for (int i = 0; i < R; ++i) sums[i][j] = V::fma(V::load_part(q + i * q_stride + d, hd - d), key, sums[i][j]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i) V::sum_8(sums[i], scores + i * score_stride);
}

/// Where the keys of a split are. (A template like all here: see kernels.h.)
template <class V>
struct SplitKeys {
  const int32_t* table;
  int64_t block_stride, head_offset;  // elements
  int block_size, head_dim;
  int64_t offset(int position) const {
    return table[position / block_size] * block_stride + head_offset + position % block_size * int64_t{head_dim};
  }
};

/// Keys ahead of the one in work whose lines are called for. A decode step streams all weights between two visits of a
/// layer's cache, so keys and values come from far away, in blocks whose order no hardware prefetcher can guess.
inline constexpr int kPrefetchKeys = 48;

/// Calls for the 8 keys at `position` of a tensor.
template <class V>
void prefetch_8(const SplitKeys<V>& keys, const uint16_t* tensor, int position) {
  const auto* line = reinterpret_cast<const char*>(tensor + keys.offset(position));
  for (int at = 0; at < 16 * keys.head_dim; at += 64) __builtin_prefetch(line + at, 0, 3);
}

/// out[i, 0 .. NC*W) = sum_j p[i, j] v_j for R queries; `part` > 0: NC is 1 and only that many columns exist.
template <class V, int R, int NC>
void weigh_values(const SplitKeys<V>& keys, const uint16_t* v, int begin, int end, int column, int part, const float* p,
                  int64_t p_stride, float* out, int64_t out_stride) {
  constexpr int W = V::kWidth;
  typename V::Reg sums[R][NC];
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
    for (int c = 0; c < NC; ++c) sums[i][c] = V::zero();
  }
  for (int first = begin; first < end;) {
    const int block_end = first - first % keys.block_size + keys.block_size;
    const int last = block_end < end ? block_end : end;
    const uint16_t* value = v + keys.offset(first) + column;
    for (; first < last; ++first, value += keys.head_dim) {
      typename V::Reg columns[NC];
#pragma GCC unroll 4
      for (int c = 0; c < NC; ++c) columns[c] = part > 0 ? V::load_f16_part(value, part) : V::load_f16(value + c * W);
#pragma GCC unroll 4
      for (int i = 0; i < R; ++i) {
        const auto weight = V::set(p[i * p_stride + first - begin]);
#pragma GCC unroll 4
        for (int c = 0; c < NC; ++c) sums[i][c] = V::fma(weight, columns[c], sums[i][c]);
      }
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
    for (int c = 0; c < NC; ++c) V::store(out + i * out_stride + c * W, sums[i][c]);
  }
}

/// One group of R query heads: scores, softmax and the weighted values of a split. `cold`: nobody has read its keys
/// yet.
template <class V, int R>
void attend_heads(const AttentionArgs& args, const SplitKeys<V>& keys, const AttentionSplit& split, const float* q,
                  float* scores, int64_t score_stride, float* mean, int64_t mean_stride, float* highest, float* sum,
                  bool cold) {
  constexpr int W = V::kWidth;
  const int hd = keys.head_dim, count = split.key_end - split.key_begin;
  const auto* k = static_cast<const uint16_t*>(args.cache.k);
  const auto* v = static_cast<const uint16_t*>(args.cache.v);
  // Scores are made from a multiple of 16 on; `lead` of them lie before the split.
  const int lead = split.key_begin % 16, padded = (lead + count + 15) / 16 * 16;
  const int first = split.key_begin - lead;
  for (int j = 0; j < padded; j += 8) {
    if (cold) {
      prefetch_8<V>(keys, v, first + j);
      if (j + kPrefetchKeys < padded) prefetch_8<V>(keys, k, first + j + kPrefetchKeys);
    }
    dot_8_keys<V, R>(q, hd, k + keys.offset(first + j), hd, scores + j, score_stride);
  }
  for (int i = 0; i < R; ++i) {
    float* row = scores + i * score_stride;
    if (args.softcap > 0) cap_scores<V>(row, padded, args.softcap);
    for (int j = 0; j < lead; ++j) row[j] = -kInfinity;
    for (int j = lead + count; j < padded; ++j) row[j] = -kInfinity;
    highest[i] = highest_score<V>(row, padded, kLowest);
    sum[i] = exponentiate<V>(row, padded, highest[i]);
  }
  const float* p = scores + lead;
  int d = 0;
  for (; d + 4 * W <= hd; d += 4 * W)
    weigh_values<V, R, 4>(keys, v, split.key_begin, split.key_end, d, 0, p, score_stride, mean + d, mean_stride);
  for (; d + W <= hd; d += W)
    weigh_values<V, R, 1>(keys, v, split.key_begin, split.key_end, d, 0, p, score_stride, mean + d, mean_stride);
  if (d < hd)
    weigh_values<V, R, 1>(keys, v, split.key_begin, split.key_end, d, hd - d, p, score_stride, mean + d, mean_stride);
}

template <class V>
void attention_split(const AttentionArgs& args, const AttentionSplit& split, float* workspace) {
  static_assert(V::kDotRows <= kAttentionMaxDotRows);
  const int hd = args.cache.head_dim, padded_dim = (hd + 15) / 16 * 16, block_size = args.cache.block_size;
  const int group = args.num_heads / args.cache.num_kv_heads;
  const int64_t head_stride = int64_t{block_size} * hd;
  const SplitKeys<V> keys{args.batch.block_tables + int64_t{split.sequence} * args.batch.block_table_stride,
                          head_stride * args.cache.num_kv_heads, head_stride * split.kv_head, block_size, hd};
  const int token = args.batch.query_start[split.sequence];
  const int64_t column = int64_t{split.kv_head} * group * hd;
  const float* q = static_cast<const float*>(args.q.data) + token * args.q.row_stride + column;
  float* out = static_cast<float*>(args.out.data) + token * args.out.row_stride + column;
  float* queries = workspace;                        // [kDotRows, padded_dim], scaled
  float* mean = queries + V::kDotRows * padded_dim;  // [kDotRows, padded_dim]
  float* scores = mean + V::kDotRows * padded_dim;   // [kDotRows, score_stride]
  const int64_t score_stride = (split.key_end - split.key_begin + 15) / 16 * 16 + 16;

  for (int ahead = 0; ahead < kPrefetchKeys && split.key_begin / 16 * 16 + ahead < split.key_end; ahead += 8)
    prefetch_8<V>(keys, static_cast<const uint16_t*>(args.cache.k), split.key_begin / 16 * 16 + ahead);
  for (int head = 0; head < group;) {
    const int heads = group - head < V::kDotRows ? group - head : V::kDotRows;
    float highest[V::kDotRows], sum[V::kDotRows];
    for (int i = 0; i < heads; ++i) copy_scaled<V>(queries + i * hd, q + (head + i) * hd, hd, args.scale);
    const auto attend = [&]<int R>() {
      attend_heads<V, R>(args, keys, split, queries, scores, score_stride, mean, padded_dim, highest, sum, head == 0);
    };
    if (heads == 1) attend.template operator()<1>();
    if constexpr (V::kDotRows >= 2) {
      if (heads == 2) attend.template operator()<2>();
    }
    if constexpr (V::kDotRows >= 3) {
      if (heads == 3) attend.template operator()<3>();
    }
    for (int i = 0; i < heads; ++i, ++head) {
      if (!split.partial) {
        copy_scaled<V>(out + head * hd, mean + i * padded_dim, hd, 1.0f / sum[i]);
        continue;
      }
      float* partial = split.partial + head * (kAttentionPartialHead + int64_t{hd});
      partial[0] = highest[i];
      partial[1] = sum[i];
      copy_scaled<V>(partial + kAttentionPartialHead, mean + i * padded_dim, hd, 1.0f);
    }
  }
}

}  // namespace imp::cpu
