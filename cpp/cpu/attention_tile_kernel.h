#pragma once
#include <cstring>

#include "cpu/attention_softmax.h"
#include "cpu/kernels.h"

// Attention for many queries: flash attention over blocks of 64 keys. The query heads of a kv head share the keys, so
// a tile's rows are (token, head of the group). A block of keys is converted from f16 once for the tile, transposed, so
// that both products are the same matrix kernel: S[row, key] = Q[row, d] Kt[d, key], O[row, d] += P[row, key] V[key,
// d]. Key blocks begin at multiples of 64 whatever the tile; a block that a row does not see adds exact zeros to it. So
// a row's result does not depend on how the batch was cut into tiles, chunks or threads.

namespace imp::cpu {

inline constexpr int kTileKeys = kAttentionTileKeys;

/// c[MR, NC*W] = (or +=) a[MR, depth] b[depth, NC*W]
template <class V, int MR, int NC>
void matmul_registers(const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c, int64_t c_stride,
                      int depth, bool accumulate) {
  constexpr int W = V::kWidth;
  typename V::Reg sums[MR][NC];
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < NC; ++j) sums[i][j] = accumulate ? V::load(c + i * c_stride + j * W) : V::zero();
  }
  for (int p = 0; p < depth; ++p) {
    typename V::Reg columns[NC];
#pragma GCC unroll 8
    for (int j = 0; j < NC; ++j) columns[j] = V::load(b + p * b_stride + j * W);
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
      const auto factor = V::set(a[i * a_stride + p]);
#pragma GCC unroll 8
      for (int j = 0; j < NC; ++j) sums[i][j] = V::fma(factor, columns[j], sums[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < NC; ++j) V::store(c + i * c_stride + j * W, sums[i][j]);
  }
}

template <class V, int NC>
void matmul_rows(const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c, int64_t c_stride,
                 int rows, int depth, bool accumulate) {
  static_assert(V::kTileRows == 6);
  int r = 0;
  for (; r + 6 <= rows; r += 6)
    matmul_registers<V, 6, NC>(a + r * a_stride, a_stride, b, b_stride, c + r * c_stride, c_stride, depth, accumulate);
  const auto rest = [&]<int MR>() {
    matmul_registers<V, MR, NC>(a + r * a_stride, a_stride, b, b_stride, c + r * c_stride, c_stride, depth, accumulate);
  };
  switch (rows - r) {
    case 5: return rest.template operator()<5>();
    case 4: return rest.template operator()<4>();
    case 3: return rest.template operator()<3>();
    case 2: return rest.template operator()<2>();
    case 1: return rest.template operator()<1>();
    default: return;
  }
}

/// c[rows, cols] = (or +=) a[rows, depth] b[depth, cols]; cols is a multiple of the register width.
template <class V>
void matmul(const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c, int64_t c_stride, int rows,
            int cols, int depth, bool accumulate) {
  constexpr int W = V::kWidth, NC = V::kTileCols;
  int n = 0;
  for (; n + NC * W <= cols; n += NC * W)
    matmul_rows<V, NC>(a, a_stride, b + n, b_stride, c + n, c_stride, rows, depth, accumulate);
  for (; n + 2 * W <= cols; n += 2 * W)
    matmul_rows<V, 2>(a, a_stride, b + n, b_stride, c + n, c_stride, rows, depth, accumulate);
  for (; n < cols; n += W) matmul_rows<V, 1>(a, a_stride, b + n, b_stride, c + n, c_stride, rows, depth, accumulate);
}

/// The workspace of one tile, carved from one array.
template <class V>
struct TileWorkspace {
  float *q, *out, *keys, *values, *scores, *highest, *sum, *shrink;
  int padded;  // head_dim rounded up to 16

  TileWorkspace(float* at, int head_dim) : padded((head_dim + 15) / 16 * 16) {
    q = at;                                             // [rows, padded]
    out = q + kAttentionTileRows * padded;              // [rows, padded]
    keys = out + kAttentionTileRows * padded;           // [padded, 64]: transposed
    values = keys + kTileKeys * padded;                 // [64, padded]
    scores = values + kTileKeys * padded;               // [rows, 64]
    highest = scores + kAttentionTileRows * kTileKeys;  // [rows]
    sum = highest + kAttentionTileRows;                 // [rows]
    shrink = sum + kAttentionTileRows;                  // [rows]
  }
};

/// Converts the keys and values [begin, end) of the `num_keys` at `base`. The others become zero: slots that nobody
/// wrote may hold anything, and 0 times that must stay 0.
template <class V>
void load_key_block(const AttentionArgs& args, const AttentionTile& tile, int base, int num_keys, int begin, int end,
                    const TileWorkspace<V>& work) {
  constexpr int W = V::kWidth;
  const int hd = args.cache.head_dim, block_size = args.cache.block_size;
  const int32_t* table = args.batch.block_tables + int64_t{tile.sequence} * args.batch.block_table_stride;
  for (int first = base; first < base + num_keys; first += W) {
    // W divides the block size, so that these W keys lie one after another.
    const bool any = first + W > begin && first < end;
    const int64_t block = any ? table[first / block_size] : 0;
    const int64_t offset = ((block * args.cache.num_kv_heads + tile.kv_head) * block_size + first % block_size) * hd;
    const uint16_t* k = static_cast<const uint16_t*>(args.cache.k) + offset;
    const uint16_t* v = static_cast<const uint16_t*>(args.cache.v) + offset;
    for (int d = 0; d < hd; d += W) {
      typename V::Reg rows[W];
#pragma GCC unroll 16
      for (int j = 0; j < W; ++j) {
        typename V::Reg value = rows[j] = V::zero();
        if (first + j >= begin && first + j < end) {
          const int at = j * hd + d;
          rows[j] = hd - d >= W ? V::load_f16(k + at) : V::load_f16_part(k + at, hd - d);
          value = hd - d >= W ? V::load_f16(v + at) : V::load_f16_part(v + at, hd - d);
        }
        V::store(work.values + (first - base + j) * work.padded + d, value);
      }
      V::transpose_store(rows, work.keys + d * kTileKeys + (first - base), kTileKeys);
    }
  }
}

/// Caps one row's scores for the block at `base` and hides the keys that its token does not see.
template <class V>
void mask_row(const AttentionArgs& args, int position, int base, int num_keys, float* scores) {
  if (args.softcap > 0) cap_scores<V>(scores, num_keys, args.softcap);
  const int window = args.sliding_window;
  const int hidden = window > 0 ? position - window + 1 - base : 0;  // before the window
  const int seen = position + 1 - base;
  for (int j = 0; j < hidden && j < num_keys; ++j) scores[j] = -kInfinity;
  for (int j = seen > 0 ? seen : 0; j < num_keys; ++j) scores[j] = -kInfinity;
}

/// Scores of all rows for a block become weights relative to each row's highest score so far; what was summed before
/// shrinks where that rose. One loop a step, so that the rows' chains of dependent operations overlap.
template <class V>
void update_rows(int rows, int num_keys, const TileWorkspace<V>& work) {
  for (int r = 0; r < rows; ++r) {
    const float highest = highest_score<V>(work.scores + r * kTileKeys, num_keys, work.highest[r]);
    work.shrink[r] = work.highest[r] - highest;
    work.highest[r] = highest;
  }
  for (int r = 0; r < rows; r += V::kWidth) V::store(work.shrink + r, exp_simd<V>(V::load(work.shrink + r)));
  for (int r = 0; r < rows; ++r) {
    const float sum = exponentiate<V>(work.scores + r * kTileKeys, num_keys, work.highest[r]);
    work.sum[r] = work.sum[r] * work.shrink[r] + sum;
  }
  for (int r = 0; r < rows; ++r)
    if (work.shrink[r] != 1.0f) scale_span<V>(work.out + r * work.padded, work.padded, work.shrink[r]);
}

template <class V>
void attention_tile(const AttentionArgs& args, const AttentionTile& tile, float* workspace) {
  const int hd = args.cache.head_dim;
  const int group = args.num_heads / args.cache.num_kv_heads;
  const int tokens = tile.token_end - tile.token_begin, rows = tokens * group;
  const int32_t* positions = args.batch.positions + tile.token_begin;
  const TileWorkspace<V> work(workspace, hd);

  for (int r = 0; r < rows; ++r) {
    const float* q = static_cast<const float*>(args.q.data) + (tile.token_begin + r / group) * args.q.row_stride +
                     (tile.kv_head * group + r % group) * hd;
    copy_scaled<V>(work.q + r * work.padded, q, hd, args.scale);
    std::memset(work.out + r * work.padded, 0, sizeof(float) * work.padded);
    work.highest[r] = kLowest;
    work.sum[r] = 0;
  }

  const int end = positions[tokens - 1] + 1;
  const int begin =
      args.sliding_window > 0 && positions[0] >= args.sliding_window ? positions[0] - args.sliding_window + 1 : 0;
  for (int base = begin / kTileKeys * kTileKeys; base < end; base += kTileKeys) {
    const int from = begin > base ? begin : base;
    const int to = end < base + kTileKeys ? end : base + kTileKeys;
    const int num_keys = (to - base + 15) / 16 * 16;
    load_key_block<V>(args, tile, base, num_keys, from, to, work);
    matmul<V>(work.q, work.padded, work.keys, kTileKeys, work.scores, kTileKeys, rows, num_keys, hd, false);
    for (int r = 0; r < rows; ++r) mask_row<V>(args, positions[r / group], base, num_keys, work.scores + r * kTileKeys);
    update_rows<V>(rows, num_keys, work);
    matmul<V>(work.scores, kTileKeys, work.values, work.padded, work.out, work.padded, rows, work.padded, to - base,
              true);
  }

  for (int r = 0; r < rows; ++r) {
    float* out = static_cast<float*>(args.out.data) + (tile.token_begin + r / group) * args.out.row_stride +
                 (tile.kv_head * group + r % group) * hd;
    copy_scaled<V>(out, work.out + r * work.padded, hd, 1.0f / work.sum[r]);
  }
}

}  // namespace imp::cpu
