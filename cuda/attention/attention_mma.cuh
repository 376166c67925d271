#pragma once
#include <cuda_fp16.h>

#include "attention/attention.h"
#include "attention/attention_params.cuh"
#include "device/cp_async.cuh"
#include "device/math.cuh"
#include "device/mma.cuh"
#include "device/pdl.cuh"

// Prefill attention on mma.sync, sm_80 and later. Formula: AttentionArgs; a query row is a (token, head of the kv
// group) pair, so that one read of K and V serves the whole group.
//
// Grid: (tiles of 16 * kRowTiles * kWarps query rows, kv heads, sequences), the later rows, which see more keys, first.
// A warp owns 16 * kRowTiles rows: S, P and O of them stay in its registers. All warps share a tile of kTileKeys keys,
// f16, rows padded by 16 bytes (ldmatrix then meets no bank twice), and copy the next one while they use this one.
// With two row tiles a warp reads each fragment of K and V once for 32 rows, which halves what the multiplications wait
// for most, shared memory; Q then has to be read from there as well, for registers are full of O.
//
// kHalfScores and kHalfOutput let the tensor cores add up in f16: twice the rate on GeForce, none elsewhere. Scores are
// those of scaled queries, so that they overflow at 65504 only; P V is added up in f16 a tile at a time and goes on in
// fp32, so that a tile's sum overflows only where kTileKeys * |v| exceeds 65504.

namespace imp::cuda {

template <int kHeadDim_, int kTileKeys_, int kWarps_, int kRowTiles_, bool kHalfScores_ = false,
          bool kHalfOutput_ = false>
struct MmaTiles {
  static constexpr int kHeadDim = kHeadDim_, kTileKeys = kTileKeys_, kWarps = kWarps_, kRowTiles = kRowTiles_;
  static constexpr bool kHalfScores = kHalfScores_, kHalfOutput = kHalfOutput_;
  static constexpr bool kSharedQueries = kRowTiles > 1;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kWarpRows = 16 * kRowTiles, kRows = kWarpRows * kWarps;
  static constexpr int kRowHalves = kHeadDim + 8;
  static constexpr int kTileHalves = 2 * kTileKeys * kRowHalves;  // K, then V
  static constexpr int kQueryHalves = kSharedQueries ? kRows * kRowHalves : 0;
  static constexpr int kSharedBytes = (2 * kTileHalves + kQueryHalves) * 2;
  static_assert(kSharedBytes <= 98 * 1024, "a block of sm_120 has 99 KiB");
};

template <class Tiles>
__device__ __forceinline__ void copy_keys(const AttentionParams& p, const SequenceSpan& span, int kv_head, int first,
                                          int end, __half* tile) {
  constexpr int kChunks = Tiles::kHeadDim / 8;  // of 16 bytes, a row
  constexpr int kBlockKeys = 16;
#pragma unroll 4
  for (int i = threadIdx.x; i < Tiles::kTileKeys * kChunks; i += Tiles::kThreads) {
    const int row = i / kChunks, chunk = i % kChunks, key = first + row;
    const bool valid = key < end;  // the others become zeros: no stale NaN meets a probability of zero
    int64_t at = 0;
    if (valid) {
      const int64_t block = span.block_table[key / kBlockKeys];
      at = ((block * p.num_kv_heads + kv_head) * kBlockKeys + key % kBlockKeys) * Tiles::kHeadDim + chunk * 8;
    }
    __half* to = tile + row * Tiles::kRowHalves + chunk * 8;
    cp_async_16(to, p.k + at, valid);
    cp_async_16(to + Tiles::kTileKeys * Tiles::kRowHalves, p.v + at, valid);
  }
}

/// 16 query rows, scaled in fp32 and then rounded, as f16 halves in the registers of an a operand.
template <class Tiles>
__device__ __forceinline__ float2 query_pair(const AttentionParams& p, const SequenceSpan& span, int kv_head, int row,
                                             int num_rows, int dim) {
  if (row >= num_rows) return make_float2(0, 0);
  const float* q = p.q + (span.first_token + row / p.group) * p.q_stride +
                   (kv_head * p.group + row % p.group) * Tiles::kHeadDim + dim;
  const float2 pair = *reinterpret_cast<const float2*>(q);
  return make_float2(pair.x * p.scale, pair.y * p.scale);
}

template <class Tiles>
struct MmaQueries {
  static constexpr int kSteps = Tiles::kHeadDim / 16;
  uint32_t registers[Tiles::kSharedQueries ? 1 : kSteps][4];
  const __half* shared;

  __device__ __forceinline__ void load(const AttentionParams& p, const SequenceSpan& span, int kv_head, int tile_row,
                                       int warp_row, int num_rows, __half* tile) {
    const int lane = threadIdx.x % 32;
    if constexpr (Tiles::kSharedQueries) {
      constexpr int kPairs = Tiles::kHeadDim / 2;
      for (int i = threadIdx.x; i < Tiles::kRows * kPairs; i += Tiles::kThreads) {
        const float2 pair = query_pair<Tiles>(p, span, kv_head, tile_row + i / kPairs, num_rows, i % kPairs * 2);
        *reinterpret_cast<uint32_t*>(tile + i / kPairs * Tiles::kRowHalves + i % kPairs * 2) =
            pack_half2(pair.x, pair.y);
      }
      shared = tile + (warp_row - tile_row) * Tiles::kRowHalves;
    } else {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int part = 0; part < 4; ++part) {
          const float2 pair = query_pair<Tiles>(p, span, kv_head, warp_row + lane / 4 + part % 2 * 8, num_rows,
                                                step * 16 + lane % 4 * 2 + part / 2 * 8);
          registers[step][part] = pack_half2(pair.x, pair.y);
        }
      }
    }
  }
  __device__ __forceinline__ void fragment(uint32_t (&a)[4], int tile, int step) const {
    if constexpr (Tiles::kSharedQueries) {
      const int lane = threadIdx.x % 32;
      load_matrix_x4(a, shared + (tile * 16 + lane % 16) * Tiles::kRowHalves + step * 16 + lane / 16 * 8);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = registers[step][i];
    }
  }
};

/// A warp's rows: output so far, and the running maximum (times log2e) and sum of each row that a lane has a part of.
template <class Tiles>
struct MmaRows {
  static constexpr int kBlocks = Tiles::kTileKeys / 8, kDimBlocks = Tiles::kHeadDim / 8;
  float o[Tiles::kRowTiles][kDimBlocks][4] = {};
  float max[Tiles::kRowTiles][2], sum[Tiles::kRowTiles][2];
  int positions[Tiles::kRowTiles][2];

  __device__ __forceinline__ void init(const AttentionParams& p, const SequenceSpan& span, int warp_row, int num_rows) {
#pragma unroll
    for (int t = 0; t < Tiles::kRowTiles; ++t) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = warp_row + t * 16 + threadIdx.x % 32 / 4 + r * 8;
        positions[t][r] = row < num_rows ? span.first_position + row / p.group : -1;
        max[t][r] = -INFINITY, sum[t][r] = 0;
      }
    }
  }

  __device__ __forceinline__ void scores(const MmaQueries<Tiles>& q, const __half* k,
                                         float (&s)[Tiles::kRowTiles][kBlocks][4]) const {
    const int lane = threadIdx.x % 32;
    const __half* own = k + (lane % 8 + lane / 16 * 8) * Tiles::kRowHalves + lane / 8 % 2 * 8;
    uint32_t half_sums[Tiles::kRowTiles][Tiles::kHalfScores ? kBlocks : 1][2] = {};
#pragma unroll
    for (int step = 0; step < Tiles::kHeadDim / 16; ++step) {
      uint32_t a[Tiles::kRowTiles][4];
#pragma unroll
      for (int t = 0; t < Tiles::kRowTiles; ++t) q.fragment(a[t], t, step);
#pragma unroll
      for (int n = 0; n < kBlocks; n += 2) {
        uint32_t b[4];
        load_matrix_x4(b, own + n * 8 * Tiles::kRowHalves + step * 16);
#pragma unroll
        for (int t = 0; t < Tiles::kRowTiles; ++t) {
          if constexpr (Tiles::kHalfScores) {
            mma_16816_f16(half_sums[t][n], a[t], b[0], b[1]);
            mma_16816_f16(half_sums[t][n + 1], a[t], b[2], b[3]);
          } else {
            mma_16816(s[t][n], a[t], b[0], b[1]);
            mma_16816(s[t][n + 1], a[t], b[2], b[3]);
          }
        }
      }
    }
    if constexpr (Tiles::kHalfScores) {
#pragma unroll
      for (int t = 0; t < Tiles::kRowTiles; ++t) {
#pragma unroll
        for (int n = 0; n < kBlocks; ++n) unpack_half4(s[t][n], half_sums[t][n]);
      }
    }
  }

  /// s becomes 2^(s log2e - max), and `rescale` what o is to be multiplied by.
  __device__ __forceinline__ void softmax(const AttentionParams& p, int first_key, bool whole, int t,
                                          float (&s)[kBlocks][4], float (&rescale)[2]) {
    if (p.softcap > 0) {
#pragma unroll
      for (int i = 0; i < kBlocks * 4; ++i) s[i / 4][i % 4] = soft_cap(s[i / 4][i % 4], p.softcap);
    }
    if (!whole) {
#pragma unroll
      for (int i = 0; i < kBlocks * 4; ++i) {
        const int key = first_key + threadIdx.x % 4 * 2 + i / 4 * 8 + i % 2, position = positions[t][i / 2 % 2];
        if (key > position || (p.window > 0 && key <= position - p.window)) s[i / 4][i % 4] = -INFINITY;
      }
    }
    float base[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = -INFINITY;
#pragma unroll
      for (int n = 0; n < kBlocks; ++n) top = fmaxf(top, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
      const float higher = fmaxf(max[t][r], top * kLog2e);
      base[r] = higher == -INFINITY ? 0 : higher;  // a row that has seen nothing yet stays zero
      rescale[r] = fast_exp2(max[t][r] - base[r]);
      max[t][r] = higher;
      sum[t][r] *= rescale[r];
    }
#pragma unroll
    for (int i = 0; i < kBlocks * 4; ++i) {
      const int r = i / 2 % 2;
      s[i / 4][i % 4] = fast_exp2(fmaf(s[i / 4][i % 4], kLog2e, -base[r]));
      sum[t][r] += s[i / 4][i % 4];
    }
  }

  /// o = o * rescale + P V. Dims are the inner loop, so that no product waits for the one before.
  __device__ __forceinline__ void add_values(const __half* v, const uint32_t (&a)[Tiles::kRowTiles][kBlocks / 2][4],
                                             const float (&rescale)[Tiles::kRowTiles][2]) {
    const int lane = threadIdx.x % 32;
    const __half* own = v + (lane % 8 + lane / 8 % 2 * 8) * Tiles::kRowHalves + lane / 16 * 8;
#pragma unroll
    for (int t = 0; t < Tiles::kRowTiles; ++t) {
#pragma unroll
      for (int i = 0; i < kDimBlocks * 4; ++i) o[t][i / 4][i % 4] *= rescale[t][i / 2 % 2];
    }
    if constexpr (Tiles::kHalfOutput) {
      add_half_values(own, a);
    } else {
#pragma unroll
      for (int n = 0; n < kBlocks / 2; ++n) {
#pragma unroll
        for (int d = 0; d < kDimBlocks; d += 2) {
          uint32_t b[4];
          load_matrix_x4_transposed(b, own + n * 16 * Tiles::kRowHalves + d * 8);
#pragma unroll
          for (int t = 0; t < Tiles::kRowTiles; ++t) {
            mma_16816(o[t][d], a[t][n], b[0], b[1]);
            mma_16816(o[t][d + 1], a[t][n], b[2], b[3]);
          }
        }
      }
    }
  }
  /// The same with sums in f16, 64 dims at a time.
  __device__ __forceinline__ void add_half_values(const __half* own,
                                                  const uint32_t (&a)[Tiles::kRowTiles][kBlocks / 2][4]) {
    constexpr int kAtOnce = 8;
    static_assert(kDimBlocks % kAtOnce == 0);
#pragma unroll
    for (int first = 0; first < kDimBlocks; first += kAtOnce) {
      uint32_t sums[Tiles::kRowTiles][kAtOnce][2] = {};
#pragma unroll
      for (int n = 0; n < kBlocks / 2; ++n) {
#pragma unroll
        for (int d = 0; d < kAtOnce; d += 2) {
          uint32_t b[4];
          load_matrix_x4_transposed(b, own + n * 16 * Tiles::kRowHalves + (first + d) * 8);
#pragma unroll
          for (int t = 0; t < Tiles::kRowTiles; ++t) {
            mma_16816_f16(sums[t][d], a[t][n], b[0], b[1]);
            mma_16816_f16(sums[t][d + 1], a[t][n], b[2], b[3]);
          }
        }
      }
#pragma unroll
      for (int t = 0; t < Tiles::kRowTiles; ++t) {
#pragma unroll
        for (int d = 0; d < kAtOnce; ++d) {
          float values[4];
          unpack_half4(values, sums[t][d]);
#pragma unroll
          for (int i = 0; i < 4; ++i) o[t][first + d][i] += values[i];
        }
      }
    }
  }

  __device__ __forceinline__ void add(const AttentionParams& p, const MmaQueries<Tiles>& q, const __half* tile,
                                      int first_key, bool whole) {
    float s[Tiles::kRowTiles][kBlocks][4] = {}, rescale[Tiles::kRowTiles][2];
    uint32_t a[Tiles::kRowTiles][kBlocks / 2][4];
    scores(q, tile, s);
#pragma unroll
    for (int t = 0; t < Tiles::kRowTiles; ++t) {
      softmax(p, first_key, whole, t, s[t], rescale[t]);
#pragma unroll
      for (int i = 0; i < kBlocks * 2; ++i)
        a[t][i / 4][i % 4] = pack_half2(s[t][i / 2][i % 2 * 2], s[t][i / 2][i % 2 * 2 + 1]);
    }
    add_values(tile + Tiles::kTileKeys * Tiles::kRowHalves, a, rescale);
  }

  __device__ __forceinline__ void store(const AttentionParams& p, const SequenceSpan& span, int kv_head, int warp_row,
                                        int num_rows) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int t = 0; t < Tiles::kRowTiles; ++t) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float total = sum[t][r];
        total += __shfl_xor_sync(~0u, total, 1);
        total += __shfl_xor_sync(~0u, total, 2);
        const int row = warp_row + t * 16 + lane / 4 + r * 8;
        if (row >= num_rows) continue;
        const int64_t at = (span.first_token + row / p.group) * p.out_stride +
                           (kv_head * p.group + row % p.group) * Tiles::kHeadDim + lane % 4 * 2;
        const float inverse = 1 / total;
#pragma unroll
        for (int d = 0; d < kDimBlocks; ++d)
          store_pair(p, at + d * 8, o[t][d][2 * r] * inverse, o[t][d][2 * r + 1] * inverse);
      }
    }
  }
};

template <class Tiles>
__global__ __launch_bounds__(Tiles::kThreads) void attention_mma_kernel(const AttentionParams p) {
  extern __shared__ __align__(16) __half shared[];  // two tiles, then the queries
  pdl_trigger();
  pdl_wait();
  const int kv_head = blockIdx.y;
  const SequenceSpan span = sequence_span(p, blockIdx.z);
  const int num_rows = span.num_tokens * p.group;
  const int tile_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * Tiles::kRows;
  if (tile_row >= num_rows) return;
  const int warp_row = tile_row + static_cast<int>(threadIdx.x / 32) * Tiles::kWarpRows;
  const int end = span.first_position + (min(tile_row + Tiles::kRows, num_rows) - 1) / p.group + 1;
  const int from = p.window == 0 ? 0 : max(0, span.first_position + tile_row / p.group - p.window + 1);
  const int begin = from / Tiles::kTileKeys * Tiles::kTileKeys;
  // Of the warp's rows: keys up to the lowest position are seen by all, unless a window leaves the first ones out.
  const int lowest = span.first_position + warp_row / p.group;
  const int highest = span.first_position + (warp_row + Tiles::kWarpRows - 1) / p.group;
  const bool all_rows = warp_row + Tiles::kWarpRows <= num_rows;

  copy_keys<Tiles>(p, span, kv_head, begin, end, shared);
  cp_async_commit();
  MmaQueries<Tiles> q;
  q.load(p, span, kv_head, tile_row, warp_row, num_rows, shared + 2 * Tiles::kTileHalves);
  MmaRows<Tiles> rows;
  rows.init(p, span, warp_row, num_rows);
  int stage = 0;
  for (int first = begin; first < end; first += Tiles::kTileKeys, stage ^= 1) {
    cp_async_wait<0>();
    __syncthreads();  // this tile is there, and nobody reads the other one any more
    if (first + Tiles::kTileKeys < end)
      copy_keys<Tiles>(p, span, kv_head, first + Tiles::kTileKeys, end, shared + (stage ^ 1) * Tiles::kTileHalves);
    cp_async_commit();
    // Warps whose rows all come before this tile, or after their window, have nothing to add.
    if (warp_row >= num_rows || first > highest || (p.window > 0 && first + Tiles::kTileKeys <= lowest - p.window + 1))
      continue;
    const bool whole =
        all_rows && first + Tiles::kTileKeys - 1 <= lowest && (p.window == 0 || first > highest - p.window);
    rows.add(p, q, shared + stage * Tiles::kTileHalves, first, whole);
  }
  rows.store(p, span, kv_head, warp_row, num_rows);
}

template <class Tiles>
void launch_attention_mma(const char* name, const AttentionArgs& args, const LaunchContext& context) {
  const AttentionParams p = make_params(args);
  const int rows = args.batch.max_query_len * p.group;
  const dim3 grid(static_cast<unsigned>((rows + Tiles::kRows - 1) / Tiles::kRows),
                  static_cast<unsigned>(p.num_kv_heads), static_cast<unsigned>(args.batch.num_sequences));
  launch(context, name, attention_mma_kernel<Tiles>, grid, Tiles::kThreads, Tiles::kSharedBytes, p);
}

}  // namespace imp::cuda
