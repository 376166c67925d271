#pragma once
#include "attention/decode_merge.cuh"
#include "attention/decode_page.cuh"
#include "attention/decode_rows.cuh"
#include "attention/decode_work.cuh"
#include "attention/head_widths.h"
#include "device/pdl.cuh"
#include "device/prefetch.cuh"

namespace imp::cuda {

// Decode attention: at most 16 query rows (tokens x heads of the group) of a (sequence, kv head), see AttentionArgs;
// and fused, all of QkRopeKvArgs on the way.
//
// Grid: (kv heads, blocks of one), shared out among the sequences by their lengths (decode_work.cuh); or, where one
// cluster of blocks is enough for a sequence, (blocks of a cluster, kv heads, sequences). The context is cut into pages
// (16 keys, what a block of the KV cache is) and its pages are dealt out evenly to the warps of as many blocks as the
// context is worth; the rest of the grid leaves at once, so that a launch planned for a longer context costs little.
// Every warp streams its own pages through its own ring (decode_ring.cuh), with its own softmax: there is no barrier
// between the first page and the last. Then decode_merge.cuh adds up.
//
// Fused, only q, k and v of the new tokens come from the kernel before. Keys of earlier tokens come from earlier steps,
// so their first pages are on the way while the kernel before still runs; a step's first kernel therefore must not
// start before the step before has ended (see embed_rows()). Not fused, the newest keys come from this step too, and
// everything waits.
//
// Bytes moved: K and V of the context once a kv head, 4 * head_dim * 16 a page; everything else is a few KiB.
// The split over the context is flash-decoding's (Dao et al. 2023).
template <int kHeadDim, int kRowTiles, int kWarps>
__global__ __launch_bounds__(kWarps * 32) void attention_decode_kernel(const __grid_constant__ DecodeParams p) {
  extern __shared__ __align__(128) unsigned char shared[];
  constexpr int kRows = kRowTiles * 8, kThreads = kWarps * 32;
  __shared__ float2 warp_stats[kWarps][kRows];
  pdl_trigger();
  if (!p.fused) pdl_wait();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const bool clustered = p.cluster > 1;
  const int kv_head = clustered ? blockIdx.y : blockIdx.x;
  DecodeWork work = {static_cast<int>(blockIdx.z), static_cast<int>(blockIdx.x), 1, 0};
  // Weights have driven everything small out of the caches. The table is asked for along with the lengths that tell
  // which part of it is needed.
  if (clustered || p.splits == 1 || p.num_sequences == 1) {
    const int row = clustered ? blockIdx.z : p.splits == 1 ? blockIdx.y : 0;
    for (int i = threadIdx.x * 32; i < p.block_table_stride; i += kThreads * 32)
      prefetch_l2(p.block_tables + static_cast<int64_t>(row) * p.block_table_stride + i);
  }
  if (!clustered) work = DecodeShares<kWarps>(p).find(blockIdx.y);
  if (work.none()) return;
  const int sequence = work.sequence;
  const int first_token = p.query_start[sequence], num_tokens = p.query_start[sequence + 1] - first_token;
  const int context = p.context_len[sequence];
  const SequenceSpan span = {first_token, num_tokens, context - num_tokens,
                             p.block_tables + static_cast<int64_t>(sequence) * p.block_table_stride};
  const int num_rows = span.num_tokens * p.group;
  const auto [first_page, num_pages] = seen_pages(p, num_tokens, context);
  const int split = work.split;
  if (clustered) {
    work.splits = min((num_pages + kWarps * p.min_pages - 1) / (kWarps * p.min_pages), p.cluster);
    if (split >= work.splits) return;
    if (work.splits > 1) cluster_arrive();
  }
  // A launch needs one block that waits for the kernel before, and has it: not all sequences are empty.
  const int active = work.splits;
  const auto page_of = [&](int worker) {
    return first_page +
           static_cast<int>(static_cast<unsigned>(num_pages * worker) / static_cast<unsigned>(active * kWarps));
  };
  const int begin = page_of(split * kWarps + warp), end = page_of(split * kWarps + warp + 1);

  const DecodeShared at = decode_shared(kHeadDim, kWarps, p.stages, kRows, p.max_tokens, p.cluster);
  auto* slots = reinterpret_cast<__half*>(shared) + warp * p.stages * page_halves(kHeadDim);
  auto* q = reinterpret_cast<__half*>(shared + at.q);
  auto* new_k = reinterpret_cast<__half*>(shared + at.new_k);
  auto* new_v = reinterpret_cast<__half*>(shared + at.new_v);
  auto* angles = reinterpret_cast<float2*>(shared + at.angles);

  const int in_cache = p.fused ? span.first_position : context;  // keys before it are in the cache
  PageRing<kHeadDim> ring(p, span, kv_head, begin, end, in_cache, slots);

  const int block_begin = page_of(split * kWarps) * kPageKeys, block_end = page_of((split + 1) * kWarps) * kPageKeys;
  const int first_new = min(max(block_begin - span.first_position, 0), span.num_tokens);
  const int end_new = min(max(block_end - span.first_position, 0), span.num_tokens);
  DecodeRows<kHeadDim, kWarps> rows(p, span, kv_head, num_rows, first_new, p.fused ? end_new : first_new, angles, q,
                                    new_k, new_v);
  DecodeAccumulator<kHeadDim, kRowTiles> sums(num_rows, num_tokens, p.group, span.first_position);
  for (int i = threadIdx.x; i < (kRows - num_rows) * kPageRow<kHeadDim>; i += kThreads)
    q[num_rows * kPageRow<kHeadDim> + i] = __half(0);
  rows.prepare();
  if (p.fused) {
    for (int i = threadIdx.x; i < num_tokens * (kHeadDim / 2); i += kThreads)
      angles[i] = rope_angle(i % (kHeadDim / 2), span.first_position + i / (kHeadDim / 2), p.rotary_dim, p.inv_freq,
                             p.magnitude);
    __syncthreads();
    pdl_wait();
  }
  rows.run();
  __syncthreads();
  sums.load_queries(q);

  for (int page = begin; page < end; ++page) {
    __half* keys = ring.wait();
    const int first_key = page * kPageKeys;
    if (first_key + kPageKeys > in_cache && p.fused) {
      constexpr int kChunks = kHeadDim / 8;
      const int first = max(first_key, span.first_position), count = min(first_key + kPageKeys, context) - first;
      for (int i = lane; i < count * kChunks; i += 32) {
        const int from = (first - span.first_position + i / kChunks) * kPageRow<kHeadDim> + i % kChunks * 8;
        const int to = (first - first_key + i / kChunks) * kPageRow<kHeadDim> + i % kChunks * 8;
        *reinterpret_cast<uint4*>(keys + to) = *reinterpret_cast<const uint4*>(new_k + from);
        *reinterpret_cast<uint4*>(keys + kPageKeys * kPageRow<kHeadDim> + to) =
            *reinterpret_cast<const uint4*>(new_v + from);
      }
      __syncwarp();
    }
    const bool masked =
        first_key + kPageKeys - 1 > span.first_position || (p.window > 0 && first_key <= context - 1 - p.window);
    sums.add(keys, first_key, masked, {p.softcap, p.window});
    ring.release();
  }
  cp_async_wait<0>();
  __syncwarp();
  sums.store(reinterpret_cast<float*>(slots), warp_stats[warp]);  // a page's room is enough
  __syncthreads();
  const int64_t pair = static_cast<int64_t>(sequence) * p.num_kv_heads + kv_head;
  const DecodeOutput<kHeadDim> output = {p, span, kv_head, num_rows};
  const BlockParts<kHeadDim, kRows, kWarps> block = {reinterpret_cast<const float*>(shared),
                                                     p.stages * page_halves(kHeadDim) / 2, warp_stats};
  if (active == 1) {
    for (int unit = threadIdx.x; unit < output.units(); unit += kThreads) output.store(unit, block.unit(unit));
    return;
  }
  if (clustered) {
    merge_cluster(output, block, reinterpret_cast<float*>(shared + at.received), split, active);
    return;
  }
  const int64_t part_floats = decode_part_floats(kRows, kHeadDim);
  merge_in_memory(output, block,
                  PartView<kHeadDim>{p.partial + (int64_t{kv_head} * p.splits + work.first_part) * part_floats,
                                     part_floats, num_rows},
                  p.counters + pair, split, active, shared);
}

/// The instance for heads of one width: 1 or 2 tiles of 8 query rows, 4 or 8 warps.
template <int kHeadDim>
DecodeKernel decode_kernel(int row_tiles, int warps) {
  if constexpr (max_decode_warps(kHeadDim) == 8) {
    if (warps == 8)
      return row_tiles == 1 ? attention_decode_kernel<kHeadDim, 1, 8> : attention_decode_kernel<kHeadDim, 2, 8>;
  }
  return row_tiles == 1 ? attention_decode_kernel<kHeadDim, 1, 4> : attention_decode_kernel<kHeadDim, 2, 4>;
}

}  // namespace imp::cuda
