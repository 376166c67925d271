#pragma once
#include <cuda_runtime.h>

#include "attention/attention.h"
#include "attention/attention_tile.cuh"
#include "device/pdl.cuh"

namespace imp::cuda {

// Grid: (splits, kv heads, sequences). A block's keys come in tiles of 64; warp w takes keys 16w .. 16w + 15 of each
// and keeps its own softmax, merged at the end through shared memory, then across blocks through `partial`:
//   partial[((sequence * kv_heads + kv_head) * splits + split) * kDecodeRows * (kHeadDim + 2)]: o rows, then max, then
//   sum.
inline constexpr int kDecodeWarps = 4;
inline constexpr int kDecodeTileKeys = kDecodeWarps * 16;
inline constexpr int kDecodeStages = 3;

template <int kHeadDim>
__global__ __launch_bounds__(kDecodeWarps * 32) void attention_decode_kernel(AttentionParams p, float* partial,
                                                                             int32_t* counters) {
  extern __shared__ __align__(16) __half tiles[];
  __shared__ float warp_max[kDecodeWarps][kDecodeRows], warp_sum[kDecodeWarps][kDecodeRows];
  __shared__ bool is_last;
  constexpr int kTileHalves = 2 * kDecodeTileKeys * kRowHalves<kHeadDim>;
  constexpr int kThreads = kDecodeWarps * 32;
  pdl_trigger();
  pdl_wait();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int split = blockIdx.x, num_splits = gridDim.x, kv_head = blockIdx.y, sequence = blockIdx.z;
  const SequenceSpan span = sequence_span(p, sequence);
  const int num_rows = span.num_tokens * p.group;
  if (num_rows == 0) return;

  const int context = span.first_position + span.num_tokens;
  const int lowest = p.window == 0 ? 0 : max(0, span.first_position - p.window + 1);
  const int first_tile = lowest / kDecodeTileKeys,
            num_tiles = (context + kDecodeTileKeys - 1) / kDecodeTileKeys - first_tile;
  const int tile_begin = first_tile + static_cast<int>(static_cast<int64_t>(num_tiles) * split / num_splits);
  const int tile_end = first_tile + static_cast<int>(static_cast<int64_t>(num_tiles) * (split + 1) / num_splits);

  QueryFragments<kHeadDim> q;
  q.load(p, span, kv_head, 0, num_rows);
  const int rows[2] = {lane / 4, lane / 4 + 8};
  const int positions[2] = {rows[0] < num_rows ? span.first_position + rows[0] / p.group : -1,
                            rows[1] < num_rows ? span.first_position + rows[1] / p.group : -1};
  RunningOutput<kHeadDim> output;
#pragma unroll
  for (int s = 0; s < kDecodeStages - 1; ++s) {
    if (tile_begin + s < tile_end)
      copy_tile<kHeadDim, kDecodeTileKeys, kThreads>(p, span, kv_head, (tile_begin + s) * kDecodeTileKeys, context,
                                                     tiles + s * kTileHalves);
    cp_async_commit();
  }
  for (int t = tile_begin; t < tile_end; ++t) {
    cp_async_wait<kDecodeStages - 2>();
    __syncthreads();
    const int ahead = t + kDecodeStages - 1;
    if (ahead < tile_end)
      copy_tile<kHeadDim, kDecodeTileKeys, kThreads>(p, span, kv_head, ahead * kDecodeTileKeys, context,
                                                     tiles + (ahead - tile_begin) % kDecodeStages * kTileHalves);
    cp_async_commit();
    output.template add<kDecodeTileKeys, 16>(p, q, tiles + (t - tile_begin) % kDecodeStages * kTileHalves, warp * 16,
                                             t * kDecodeTileKeys, positions);
  }
  cp_async_wait<0>();
  output.finish_sums();

  // Merge the four warps: their outputs go through shared memory, where the tiles were.
  __syncthreads();
  auto* merged = reinterpret_cast<float*>(tiles);  // [warps][rows][head_dim]
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (lane % 4 == 0) {
      warp_max[warp][rows[r]] = output.max[r];
      warp_sum[warp][rows[r]] = output.sum[r];
    }
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; ++d)
      *reinterpret_cast<float2*>(merged + (warp * kDecodeRows + rows[r]) * kHeadDim + d * 8 + (lane % 4) * 2) =
          make_float2(output.o[d][r * 2], output.o[d][r * 2 + 1]);
  }
  __syncthreads();
  constexpr int kPart = kDecodeRows * (kHeadDim + 2);
  const int64_t pair = static_cast<int64_t>(sequence) * p.num_kv_heads + kv_head;
  float* own = partial + (pair * num_splits + split) * kPart;
  auto store = [&](int row, int d, float value) {
    p.out[(span.first_token + row / p.group) * p.out_stride + (kv_head * p.group + row % p.group) * kHeadDim + d] =
        value;
  };
  for (int i = threadIdx.x; i < num_rows * kHeadDim; i += kThreads) {
    const int row = i / kHeadDim, d = i % kHeadDim;
    float top = -INFINITY;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) top = fmaxf(top, warp_max[w][row]);
    const float base = top == -INFINITY ? 0 : top;
    float value = 0, sum = 0;
#pragma unroll
    for (int w = 0; w < kDecodeWarps; ++w) {
      const float weight = exp2f(warp_max[w][row] - base);
      value += weight * merged[(w * kDecodeRows + row) * kHeadDim + d];
      sum += weight * warp_sum[w][row];
    }
    if (num_splits == 1) {
      store(row, d, value / sum);
    } else {
      own[row * kHeadDim + d] = value;
      if (d == 0) {
        own[kDecodeRows * kHeadDim + row] = top;
        own[kDecodeRows * (kHeadDim + 1) + row] = sum;
      }
    }
  }
  if (num_splits == 1) return;

  // The block that arrives last adds up the parts of all, in their order.
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) is_last = atomicAdd(&counters[pair], 1) == num_splits - 1;
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  const float* parts = partial + pair * num_splits * kPart;
  for (int i = threadIdx.x; i < num_rows * kHeadDim; i += kThreads) {
    const int row = i / kHeadDim, d = i % kHeadDim;
    float top = -INFINITY;
    for (int s = 0; s < num_splits; ++s) top = fmaxf(top, __ldcg(parts + s * kPart + kDecodeRows * kHeadDim + row));
    float value = 0, sum = 0;
    for (int s = 0; s < num_splits; ++s) {
      const float weight = exp2f(__ldcg(parts + s * kPart + kDecodeRows * kHeadDim + row) - top);
      value += weight * __ldcg(parts + s * kPart + row * kHeadDim + d);
      sum += weight * __ldcg(parts + s * kPart + kDecodeRows * (kHeadDim + 1) + row);
    }
    store(row, d, value / sum);
  }
  if (threadIdx.x == 0) counters[pair] = 0;  // ready for the next launch
}

template <int kHeadDim>
void launch_attention_decode(const AttentionArgs& args, int num_splits, const AttentionScratch& scratch,
                             const LaunchContext& context) {
  const AttentionParams p = make_params(args);
  const dim3 grid(static_cast<unsigned>(num_splits), static_cast<unsigned>(p.num_kv_heads),
                  static_cast<unsigned>(args.batch.num_sequences));
  constexpr size_t kTiles = kDecodeStages * 2 * kDecodeTileKeys * kRowHalves<kHeadDim> * sizeof(__half);
  constexpr size_t kMerge = kDecodeWarps * kDecodeRows * kHeadDim * sizeof(float);
  launch(context, "attention_decode", attention_decode_kernel<kHeadDim>, grid, kDecodeWarps * 32,
         kTiles > kMerge ? kTiles : kMerge, p, scratch.partial, scratch.counters);
}

}  // namespace imp::cuda
