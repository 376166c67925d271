#include <algorithm>

#include "attention/attention.h"
#include "attention/attention_params.cuh"
#include "core/error.h"
#include "device/cp_async.cuh"
#include "device/math.cuh"
#include "device/mma.cuh"
#include "device/pdl.cuh"

// Prefill attention with its matrix of probabilities in memory: what attention was before it was fused, for comparisons
// and for short prompts where a setting asks for it. Formula: AttentionArgs.
//
// One sequence at a time, and as many of its query rows (token, head of the kv group) as `scores` holds:
//  1. probabilities: P = softmax(mask(cap(Q K^T))), f16. Keys are read twice, once for the maximum and the sum of each
//     row and once to write P: scores themselves would lose too much in f16.
//  2. values: O = P V.
// Grid of both: (tiles of 64 rows, kv heads[, chunks of 64 dims]); 4 warps of 16 rows; tiles of 64 keys.
// P: [kv heads][rows of the slice][stride], the columns of keys before the tile's first and behind its last unwritten.
// Bytes: 2 * rows * keys written, then read once for each 64 dims.

namespace imp::cuda {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kRows = 64, kKeys = 64;
constexpr int kBlockKeys = 16;
constexpr int kPad = 8;  // halves: ldmatrix meets no bank twice

struct Slice {
  int sequence, first_row, num_rows;  // of the query rows of one kv head; may pass the sequence's end
  __half* probabilities;
  int64_t stride;  // halves a row
};

/// Which keys a tile of rows sees.
struct TileKeys {
  int begin, end;
};
__device__ __forceinline__ TileKeys keys_of(const AttentionParams& p, const SequenceSpan& span, int first_row,
                                            int num_rows) {
  const int last = min(first_row + kRows, num_rows) - 1;
  const int lowest = p.window == 0 ? 0 : max(0, span.first_position + first_row / p.group - p.window + 1);
  return {lowest / kKeys * kKeys, span.first_position + last / p.group + 1};
}

/// Rows [first, first + 64) of K or V of a kv head, dims [first_dim, first_dim + dims); zeros behind `end`.
__device__ __forceinline__ void copy_rows(const AttentionParams& p, const SequenceSpan& span, const __half* cache,
                                          int kv_head, int head_dim, int first, int end, int first_dim, int dims,
                                          __half* tile) {
  const int chunks = dims / 8;
  for (int i = threadIdx.x; i < kKeys * chunks; i += kThreads) {
    const int row = i / chunks, chunk = i % chunks, key = first + row;
    int64_t at = 0;
    if (key < end) {
      const int64_t block = span.block_table[key / kBlockKeys];
      at = ((block * p.num_kv_heads + kv_head) * kBlockKeys + key % kBlockKeys) * head_dim + first_dim + chunk * 8;
    }
    cp_async_16(tile + row * (dims + kPad) + chunk * 8, cache + at, key < end);
  }
}

/// Scores of a warp's 16 rows against a tile of keys, masked, times log2e.
__device__ __forceinline__ void score_tile(const AttentionParams& p, const __half* q, const __half* k, int head_dim,
                                           int first_key, const int (&positions)[2], float (&s)[kKeys / 8][4]) {
  const int lane = threadIdx.x % 32, stride = head_dim + kPad;
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
  for (int dim = 0; dim < head_dim; dim += 16) {
    uint32_t a[4];
    load_matrix_x4(a, q + lane % 16 * stride + dim + lane / 16 * 8);
#pragma unroll
    for (int n = 0; n < kKeys / 8; n += 2) {
      uint32_t b[4];
      load_matrix_x4(b, k + (n * 8 + lane % 8 + lane / 16 * 8) * stride + dim + lane / 8 % 2 * 8);
      mma_16816(s[n], a, b[0], b[1]);
      mma_16816(s[n + 1], a, b[2], b[3]);
    }
  }
#pragma unroll
  for (int i = 0; i < kKeys / 2; ++i) {
    float& score = s[i / 4][i % 4];
    if (p.softcap > 0) score = soft_cap(score, p.softcap);
    const int key = first_key + lane % 4 * 2 + i / 4 * 8 + i % 2, position = positions[i / 2 % 2];
    const bool seen = key <= position && (p.window == 0 || key > position - p.window);
    score = seen ? score * kLog2e : -INFINITY;
  }
}

__global__ __launch_bounds__(kThreads) void probabilities_kernel(const AttentionParams p, const Slice slice,
                                                                 int head_dim) {
  extern __shared__ __align__(16) __half shared[];  // queries, then a tile of keys
  pdl_trigger();
  pdl_wait();
  const SequenceSpan span = sequence_span(p, slice.sequence);
  const int num_rows = min(span.num_tokens * p.group, slice.first_row + slice.num_rows), kv_head = blockIdx.y;
  const int tile_row = slice.first_row + static_cast<int>(blockIdx.x) * kRows;
  if (tile_row >= num_rows) return;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16, stride = head_dim + kPad;
  __half* keys = shared + kRows * stride;
  for (int i = threadIdx.x; i < kRows * head_dim; i += kThreads) {
    const int row = tile_row + i / head_dim, dim = i % head_dim;
    float value = 0;
    if (row < num_rows)
      value = p.q[(span.first_token + row / p.group) * p.q_stride +
                  (kv_head * p.group + row % p.group) * static_cast<int64_t>(head_dim) + dim];
    shared[i / head_dim * stride + dim] = __float2half_rn(value * p.scale);
  }
  const int rows[2] = {tile_row + warp_row + lane / 4, tile_row + warp_row + lane / 4 + 8};
  const int positions[2] = {rows[0] < num_rows ? span.first_position + rows[0] / p.group : -1,
                            rows[1] < num_rows ? span.first_position + rows[1] / p.group : -1};
  const TileKeys seen = keys_of(p, span, tile_row, num_rows);
  float max[2] = {-INFINITY, -INFINITY}, sum[2] = {}, s[kKeys / 8][4];
  const auto score = [&](int first) {
    __syncthreads();
    copy_rows(p, span, p.k, kv_head, head_dim, first, seen.end, 0, head_dim, keys);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    score_tile(p, shared + warp_row * stride, keys, head_dim, first, positions, s);
  };
  for (int first = seen.begin; first < seen.end; first += kKeys) {
    score(first);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = max[r], added = 0;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) top = fmaxf(top, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
      const float base = top == -INFINITY ? 0 : top;  // a row that has seen nothing yet
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) added += fast_exp2(s[n][2 * r] - base) + fast_exp2(s[n][2 * r + 1] - base);
      sum[r] = sum[r] * fast_exp2(max[r] - base) + added;
      max[r] = top;
    }
  }
  float inverse[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
    sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
    inverse[r] = 1 / sum[r];
  }
  for (int first = seen.begin; first < seen.end; first += kKeys) {
    score(first);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (rows[r] >= num_rows) continue;
      __half* to = slice.probabilities +
                   (static_cast<int64_t>(kv_head) * slice.num_rows + rows[r] - slice.first_row) * slice.stride + first +
                   lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
        *reinterpret_cast<uint32_t*>(to + n * 8) =
            pack_half2(fast_exp2(s[n][2 * r] - max[r]) * inverse[r], fast_exp2(s[n][2 * r + 1] - max[r]) * inverse[r]);
    }
  }
}

__global__ __launch_bounds__(kThreads) void values_kernel(const AttentionParams p, const Slice slice, int head_dim) {
  constexpr int kDims = 64, kStride = kDims + kPad;
  __shared__ __align__(16) __half weights[kRows * kStride], values[kKeys * kStride];
  pdl_trigger();
  pdl_wait();
  const SequenceSpan span = sequence_span(p, slice.sequence);
  const int num_rows = min(span.num_tokens * p.group, slice.first_row + slice.num_rows), kv_head = blockIdx.y;
  const int tile_row = slice.first_row + static_cast<int>(blockIdx.x) * kRows;
  if (tile_row >= num_rows) return;
  const int first_dim = static_cast<int>(blockIdx.z) * kDims, dims = min(kDims, head_dim - first_dim);
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 16;
  const TileKeys seen = keys_of(p, span, tile_row, num_rows);
  const __half* own = slice.probabilities +
                      (static_cast<int64_t>(kv_head) * slice.num_rows + tile_row - slice.first_row) * slice.stride;
  float o[kDims / 8][4] = {};
  for (int first = seen.begin; first < seen.end; first += kKeys) {
    __syncthreads();
    for (int i = threadIdx.x; i < kRows * kKeys / 8; i += kThreads) {
      const int row = i / 8, chunk = i % 8;
      const bool valid = tile_row + row < num_rows;
      cp_async_16(weights + row * kStride + chunk * 8, valid ? own + row * slice.stride + first + chunk * 8 : own,
                  valid);
    }
    copy_rows(p, span, p.v, kv_head, head_dim, first, seen.end, first_dim, dims, values);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int n = 0; n < kKeys; n += 16) {
      uint32_t a[4];
      load_matrix_x4(a, weights + (warp_row + lane % 16) * kStride + n + lane / 16 * 8);
#pragma unroll
      for (int d = 0; d < kDims; d += 16) {
        if (d >= dims) break;
        uint32_t b[4];
        load_matrix_x4_transposed(b, values + (n + lane % 8 + lane / 8 % 2 * 8) * (dims + kPad) + d + lane / 16 * 8);
        mma_16816(o[d / 8], a, b[0], b[1]);
        mma_16816(o[d / 8 + 1], a, b[2], b[3]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = tile_row + warp_row + lane / 4 + r * 8;
    if (row >= num_rows) continue;
    const int64_t at = (span.first_token + row / p.group) * p.out_stride +
                       (kv_head * p.group + row % p.group) * static_cast<int64_t>(head_dim) + first_dim + lane % 4 * 2;
#pragma unroll
    for (int d = 0; d < kDims / 8; ++d)
      if (d * 8 < dims) store_pair(p, at + d * 8, o[d][2 * r], o[d][2 * r + 1]);
  }
}

}  // namespace

void attention_scores(const AttentionArgs& args, const ScoresBuffer& scores, const LaunchContext& context) {
  if (args.q.rows == 0) return;
  const AttentionParams p = make_params(args);
  const int head_dim = args.cache.head_dim, most_rows = args.batch.max_query_len * p.group;
  Slice slice = {};
  slice.probabilities = static_cast<__half*>(scores.data);
  slice.stride = (args.batch.max_context_len + kKeys - 1) / kKeys * kKeys;
  // Where not all fit: slices of rows, of whole tiles if possible.
  const int64_t fitting = scores.bytes / (slice.stride * 2 * p.num_kv_heads);
  if (fitting == 0)
    fail(ErrorCode::unsupported, "attention.attn_scores_mib: ", scores.bytes,
         " bytes do not hold the probabilities of ", p.num_kv_heads, " query rows over ", slice.stride,
         " keys; raise it");
  slice.num_rows = static_cast<int>(std::min<int64_t>(fitting >= kRows ? fitting / kRows * kRows : fitting, most_rows));
  const size_t shared = static_cast<size_t>(kRows + kKeys) * static_cast<size_t>(head_dim + kPad) * sizeof(__half);
  for (slice.sequence = 0; slice.sequence < args.batch.num_sequences; ++slice.sequence) {
    for (slice.first_row = 0; slice.first_row < most_rows; slice.first_row += slice.num_rows) {
      const dim3 grid(
          static_cast<unsigned>((std::min(slice.num_rows, most_rows - slice.first_row) + kRows - 1) / kRows),
          static_cast<unsigned>(p.num_kv_heads));
      const dim3 by_dims(grid.x, grid.y, static_cast<unsigned>((head_dim + 63) / 64));
      launch(context, "attention_scores_softmax", probabilities_kernel, grid, kThreads, shared, p, slice, head_dim);
      launch(context, "attention_scores_values", values_kernel, by_dims, kThreads, 0, p, slice, head_dim);
    }
  }
}

}  // namespace imp::cuda
