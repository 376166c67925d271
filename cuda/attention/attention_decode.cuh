#pragma once
#include "attention/decode_merge.cuh"
#include "attention/decode_page.cuh"
#include "attention/decode_rows.cuh"
#include "device/pdl.cuh"

namespace imp::cuda {

// Decode attention: at most 16 query rows (tokens x heads of the group) of a (sequence, kv head), see AttentionArgs;
// and fused, all of QkRopeKvArgs on the way.
//
// Grid: (splits, kv heads, sequences); blocks of one pair lie side by side and form clusters of p.cluster. The context
// is cut into pages (16 keys, what a block of the KV cache is) and its pages are dealt out evenly to the warps of as
// many blocks as the context is worth; the rest of the grid leaves at once, so that a launch planned for a longer
// context costs little. Every warp streams its own pages through its own ring of `stages` buffers (cp.async), with its
// own softmax: there is no barrier between the first page and the last. Then decode_merge.cuh adds up.
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
  const int kv_head = blockIdx.y, sequence = blockIdx.z;
  const int first_token = p.query_start[sequence], num_tokens = p.query_start[sequence + 1] - first_token;
  const int context = p.context_len[sequence];
  const SequenceSpan span = {first_token, num_tokens, context - num_tokens,
                             p.block_tables + static_cast<int64_t>(sequence) * p.block_table_stride};
  const int num_rows = span.num_tokens * p.group;
  const int lowest = p.window == 0 ? 0 : max(0, span.first_position - p.window + 1);
  const int first_page = lowest / kPageKeys, num_pages = (context + kPageKeys - 1) / kPageKeys - first_page;

  // A launch needs one block that waits for the kernel before, and has it: not all sequences are empty.
  int active = min((num_pages + kWarps * p.min_pages - 1) / (kWarps * p.min_pages), static_cast<int>(gridDim.x));
  if (active > p.cluster) active = (active + p.cluster - 1) / p.cluster * p.cluster;
  const int split = blockIdx.x;
  if (num_rows == 0 || split >= active) return;
  const int rank = split % p.cluster, mates = min(active, p.cluster);
  if (mates > 1) cluster_arrive();
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

  // The pages' places, 32 at a time in the lanes, and 32 ahead.
  const auto places = [&](int page) { return page + lane < end ? span.block_table[page + lane] : 0; };
  int place = places(begin), place_ahead = places(begin + 32);
  const int in_cache = p.fused ? span.first_position : context;  // keys before it are in the cache
  int next_page = begin, next_slot = 0;
  const auto copy_next = [&] {
    if (next_page < end) {
      const int i = (next_page - begin) % 32;
      if (i == 0 && next_page > begin) place = place_ahead, place_ahead = places(next_page + 32);
      const int64_t block = __shfl_sync(~0u, place, i);
      const int64_t offset = (block * p.num_kv_heads + kv_head) * (kPageKeys * kHeadDim);
      copy_page<kHeadDim>(p.k_cache + offset, p.v_cache + offset, in_cache - next_page * kPageKeys,
                          slots + next_slot * page_halves(kHeadDim));
    }
    cp_async_commit();
    ++next_page;
    next_slot = next_slot + 1 == p.stages ? 0 : next_slot + 1;
  };
  for (int s = 0; s < p.stages; ++s) copy_next();

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

  int slot = 0;
  for (int page = begin; page < end; ++page) {
    cp_async_wait(p.stages - 1);
    __syncwarp();
    __half* keys = slots + slot * page_halves(kHeadDim);
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
    __syncwarp();  // all lanes have read the page
    copy_next();
    slot = slot + 1 == p.stages ? 0 : slot + 1;
  }
  cp_async_wait<0>();
  __syncwarp();
  sums.store(reinterpret_cast<float*>(slots), warp_stats[warp]);  // a warp's first page has room for it
  __syncthreads();
  const int64_t pair = static_cast<int64_t>(sequence) * p.num_kv_heads + kv_head;
  merge_parts<kHeadDim, kRows, kWarps>(DecodeOutput<kHeadDim>{p, span, kv_head, num_rows},
                                       reinterpret_cast<const float*>(shared), p.stages * page_halves(kHeadDim) / 2,
                                       warp_stats, reinterpret_cast<float*>(shared + at.received), rank, mates,
                                       split / p.cluster, active / mates, pair);
}

using DecodeKernel = void (*)(DecodeParams);

}  // namespace imp::cuda
