#pragma once
#include <cuda_runtime.h>

#include "attention/attention.h"
#include "attention/attention_tile.cuh"
#include "device/pdl.cuh"

namespace imp::cuda {

// Grid: (tiles of 64 query rows, kv heads, sequences). Warp w owns rows 16w .. 16w + 15; all warps share the tile of
// keys, and the next one is copied while this one is used. Later query rows see more keys, so they are started first.
inline constexpr int kPrefillWarps = 4;
inline constexpr int kPrefillRows = kPrefillWarps * 16;

template <int kHeadDim, int kTileKeys>
__global__ __launch_bounds__(kPrefillWarps * 32) void attention_prefill_kernel(AttentionParams p) {
  extern __shared__ __align__(16) __half tiles[];
  constexpr int kTileHalves = 2 * kTileKeys * kRowHalves<kHeadDim>;
  constexpr int kThreads = kPrefillWarps * 32;
  pdl_trigger();
  pdl_wait();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int kv_head = blockIdx.y;
  const SequenceSpan span = sequence_span(p, blockIdx.z);
  const int num_rows = span.num_tokens * p.group;
  const int tile_row = (gridDim.x - 1 - blockIdx.x) * kPrefillRows;
  if (tile_row >= num_rows) return;
  const int first_row = tile_row + warp * 16;

  QueryFragments<kHeadDim> q;
  q.load(p, span, kv_head, first_row, num_rows);
  const int rows[2] = {first_row + lane / 4, first_row + lane / 4 + 8};
  const int positions[2] = {rows[0] < num_rows ? span.first_position + rows[0] / p.group : -1,
                            rows[1] < num_rows ? span.first_position + rows[1] / p.group : -1};
  const int last_row = min(tile_row + kPrefillRows, num_rows) - 1;
  const int end = span.first_position + last_row / p.group + 1;
  const int lowest = p.window == 0 ? 0 : max(0, span.first_position + tile_row / p.group - p.window + 1);
  const int begin = lowest / kTileKeys * kTileKeys;

  RunningOutput<kHeadDim> output;
  copy_tile<kHeadDim, kTileKeys, kThreads>(p, span, kv_head, begin, end, tiles);
  cp_async_commit();
  int stage = 0;
  for (int first = begin; first < end; first += kTileKeys) {
    if (first + kTileKeys < end)
      copy_tile<kHeadDim, kTileKeys, kThreads>(p, span, kv_head, first + kTileKeys, end,
                                               tiles + (stage ^ 1) * kTileHalves);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    output.template add<kTileKeys, kTileKeys>(p, q, tiles + stage * kTileHalves, 0, first, positions);
    __syncthreads();
    stage ^= 1;
  }
  output.finish_sums();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (rows[r] >= num_rows) continue;
    const int64_t at = (span.first_token + rows[r] / p.group) * p.out_stride +
                       (kv_head * p.group + rows[r] % p.group) * kHeadDim + lane % 4 * 2;
    const float inverse = 1 / output.sum[r];
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; ++d)
      store_pair(p, at + d * 8, output.o[d][r * 2] * inverse, output.o[d][r * 2 + 1] * inverse);
  }
}

template <int kHeadDim, int kTileKeys>
void launch_attention_prefill(const AttentionArgs& args, const LaunchContext& context) {
  const AttentionParams p = make_params(args);
  const int rows = args.batch.max_query_len * p.group;
  const dim3 grid(static_cast<unsigned>((rows + kPrefillRows - 1) / kPrefillRows),
                  static_cast<unsigned>(p.num_kv_heads), static_cast<unsigned>(args.batch.num_sequences));
  constexpr size_t kShared = 2 * 2 * kTileKeys * kRowHalves<kHeadDim> * sizeof(__half);
  launch(context, "attention_prefill", attention_prefill_kernel<kHeadDim, kTileKeys>, grid, kPrefillWarps * 32, kShared,
         p);
}

}  // namespace imp::cuda
