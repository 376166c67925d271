#pragma once
// What the prefill and the decode kernel share: a tile of keys in shared memory, scores of 16 query rows against it,
// and the running softmax. A query row is a (token, head of the kv group) pair, so that one read of K and V serves the
// whole group.
//
// Shared memory of a tile: kTileKeys rows of K, then of V, f16, each row padded by 16 bytes: ldmatrix reads 8 rows at a
// stride of 16 bytes mod 128 and meets no bank twice.
#include <cuda_fp16.h>

#include <cstdint>

#include "attention/attention_params.cuh"
#include "device/cp_async.cuh"
#include "device/math.cuh"
#include "device/mma.cuh"

namespace imp::cuda {

template <int kHeadDim>
constexpr int kRowHalves = kHeadDim + 8;

/// Starts copying keys [first, first + kTileKeys) of one kv head into `tile`; keys at or past `end` become zeros, so
/// that no stale NaN meets a zero probability.
template <int kHeadDim, int kTileKeys, int kThreads>
__device__ __forceinline__ void copy_tile(const AttentionParams& p, const SequenceSpan& span, int kv_head, int first,
                                          int end, __half* tile) {
  constexpr int kChunks = kHeadDim / 8;  // of 16 bytes, a row
  for (int i = threadIdx.x; i < 2 * kTileKeys * kChunks; i += kThreads) {
    const bool is_v = i >= kTileKeys * kChunks;
    const int j = is_v ? i - kTileKeys * kChunks : i;
    const int row = j / kChunks, chunk = j % kChunks, key = first + row;
    const bool valid = key < end;
    int64_t at = 0;
    if (valid) {
      const int64_t block = span.block_table[key / p.block_size];
      at = ((block * p.num_kv_heads + kv_head) * p.block_size + key % p.block_size) * kHeadDim + chunk * 8;
    }
    cp_async_16(tile + (is_v ? kTileKeys + row : row) * kRowHalves<kHeadDim> + chunk * 8, (is_v ? p.v : p.k) + at,
                valid);
  }
}

/// 16 query rows as the a operand of QK^T, one fragment a 16 dims. Rows outside are zero. q is scaled in fp32 first, so
/// that the f16 values are those of the scores.
template <int kHeadDim>
struct QueryFragments {
  uint32_t a[kHeadDim / 16][4];

  __device__ __forceinline__ void load(const AttentionParams& p, const SequenceSpan& span, int kv_head, int first_row,
                                       int num_rows) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) {
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        const int row = first_row + lane / 4 + (part % 2) * 8;
        float2 pair = make_float2(0, 0);
        if (row < num_rows) {
          const float* q =
              p.q + (span.first_token + row / p.group) * p.q_stride + (kv_head * p.group + row % p.group) * kHeadDim;
          pair = *reinterpret_cast<const float2*>(q + step * 16 + (lane % 4) * 2 + (part / 2) * 8);
        }
        a[step][part] = pack_half2(pair.x * p.scale, pair.y * p.scale);
      }
    }
  }
};

/// Output of 16 query rows so far: unnormalised sum of p * v, and the running maximum and sum of each of a lane's two
/// rows.
template <int kHeadDim>
struct RunningOutput {
  float o[kHeadDim / 8][4] = {};
  float max[2] = {-INFINITY, -INFINITY};
  float sum[2] = {};  // this lane's part

  /// Adds kKeys keys that start at row `key_row` of the tile. `positions` of the two rows; key of tile row 0:
  /// first_key.
  template <int kTileKeys, int kKeys>
  __device__ __forceinline__ void add(const AttentionParams& p, const QueryFragments<kHeadDim>& q, const __half* tile,
                                      int key_row, int first_key, const int (&positions)[2]) {
    const int lane = threadIdx.x % 32;
    constexpr int kTilesN = kKeys / 8;
    float s[kTilesN][4] = {};
    const __half* k = tile + key_row * kRowHalves<kHeadDim>;
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) {
#pragma unroll
      for (int n = 0; n < kTilesN; n += 2) {
        uint32_t b[4];
        const int row = n * 8 + lane % 8 + (lane / 16) * 8, dim = step * 16 + (lane / 8 % 2) * 8;
        load_matrix_x4(b, k + row * kRowHalves<kHeadDim> + dim);
        mma_16816(s[n], q.a[step], b[0], b[1]);
        mma_16816(s[n + 1], q.a[step], b[2], b[3]);
      }
    }
    float new_max[2] = {max[0], max[1]};
#pragma unroll
    for (int n = 0; n < kTilesN; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = first_key + key_row + n * 8 + (lane % 4) * 2 + i % 2, position = positions[i / 2];
        if (p.softcap > 0) s[n][i] = p.softcap * tanhf(s[n][i] / p.softcap);
        const bool seen = key <= position && (p.window == 0 || key > position - p.window);
        s[n][i] = seen ? s[n][i] * kLog2e : -INFINITY;
        new_max[i / 2] = fmaxf(new_max[i / 2], s[n][i]);
      }
    }
    float rescale[2], base[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      new_max[r] = fmaxf(new_max[r], __shfl_xor_sync(~0u, new_max[r], 1));
      new_max[r] = fmaxf(new_max[r], __shfl_xor_sync(~0u, new_max[r], 2));
      base[r] = new_max[r] == -INFINITY ? 0 : new_max[r];  // a row that has seen nothing yet stays zero
      rescale[r] = exp2f(max[r] - base[r]);
      max[r] = new_max[r];
      sum[r] *= rescale[r];
    }
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; ++d) {
#pragma unroll
      for (int i = 0; i < 4; ++i) o[d][i] *= rescale[i / 2];
    }
#pragma unroll
    for (int n = 0; n < kTilesN; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        s[n][i] = exp2f(s[n][i] - base[i / 2]);
        sum[i / 2] += s[n][i];
      }
    }
    const __half* v = tile + (kTileKeys + key_row) * kRowHalves<kHeadDim>;
#pragma unroll
    for (int n = 0; n < kTilesN; n += 2) {
      const uint32_t a[4] = {pack_half2(s[n][0], s[n][1]), pack_half2(s[n][2], s[n][3]),
                             pack_half2(s[n + 1][0], s[n + 1][1]), pack_half2(s[n + 1][2], s[n + 1][3])};
#pragma unroll
      for (int d = 0; d < kHeadDim / 8; d += 2) {
        uint32_t b[4];
        const int row = n * 8 + lane % 8 + (lane / 8 % 2) * 8, dim = d * 8 + (lane / 16) * 8;
        load_matrix_x4_transposed(b, v + row * kRowHalves<kHeadDim> + dim);
        mma_16816(o[d], a, b[0], b[1]);
        mma_16816(o[d + 1], a, b[2], b[3]);
      }
    }
  }

  /// Sums of the two rows, the same in the four lanes that share them.
  __device__ __forceinline__ void finish_sums() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
      sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
    }
  }
};

}  // namespace imp::cuda
