#pragma once
#include <cuda_runtime.h>

#include <algorithm>

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
inline constexpr int kDecodeMaxStages = 3;  // tiles in shared memory: as many as the device has room for

template <int kHeadDim>
__global__ __launch_bounds__(kDecodeWarps * 32) void attention_decode_kernel(AttentionParams p, int stages,
                                                                             float* partial, int32_t* counters) {
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
  auto tile_at = [&](int t) { return tiles + (t - tile_begin) % stages * kTileHalves; };
  auto copy = [&](int t) {
    if (t < tile_end)
      copy_tile<kHeadDim, kDecodeTileKeys, kThreads>(p, span, kv_head, t * kDecodeTileKeys, context, tile_at(t));
    cp_async_commit();
  };
  for (int s = 0; s < stages - 1; ++s) copy(tile_begin + s);
  for (int t = tile_begin; t < tile_end; ++t) {
    if (stages == 1) copy(t);
    if (stages == kDecodeMaxStages)
      cp_async_wait<kDecodeMaxStages - 2>();
    else
      cp_async_wait<0>();
    __syncthreads();
    if (stages > 1) copy(t + stages - 1);
    output.template add<kDecodeTileKeys, 16>(p, q, tile_at(t), warp * 16, t * kDecodeTileKeys, positions);
    if (stages == 1) __syncthreads();  // before the tile is overwritten
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
    store_one(p, (span.first_token + row / p.group) * p.out_stride + (kv_head * p.group + row % p.group) * kHeadDim + d,
              value);
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
  constexpr size_t kTile = 2 * kDecodeTileKeys * kRowHalves<kHeadDim> * sizeof(__half);
  constexpr size_t kMerge = kDecodeWarps * kDecodeRows * kHeadDim * sizeof(float);
  constexpr size_t kStatic = 1024;  // the kernel's own arrays
  const size_t room = (static_cast<size_t>(context.max_shared_bytes) - kStatic) / kTile;
  const size_t stages = std::clamp<size_t>(room, 1, kDecodeMaxStages);
  launch(context, "attention_decode", attention_decode_kernel<kHeadDim>, grid, kDecodeWarps * 32,
         std::max(stages * kTile, kMerge), p, static_cast<int>(stages), scratch.partial, scratch.counters);
}

}  // namespace imp::cuda
