#pragma once
#include <algorithm>

#include "attention/attention.h"
#include "attention/attention_wgmma_copy.cuh"
#include "device/math.cuh"
#include "device/mma.cuh"
#include "device/pdl.cuh"
#include "device/wgmma_f16.cuh"
#include "runtime/tensor_map.h"

// Prefill attention for sm_90a. Formula: AttentionArgs; a query row is a (token, head of the kv group) pair.
//
// The work is cut into tiles of 64 * kGroups query rows of a kv head of a sequence, the later rows, which see more
// keys, first. A block a SM takes every gridDim.x-th tile, forwards and backwards in turn, so that all have about the
// same to do. A block is kGroups warpgroups that compute, 64 rows each, and a warpgroup that brings what they need: one
// warp copies K and V a tile of kTileKeys keys at a time through two stages of shared memory, a box of 16 keys x 64
// dims for each block of the cache; the others scale and round the queries of the next tile of rows. So a block starts
// its next tile without waiting. A tile in shared memory is panels of 64 dims, [rows][64] f16 each, in the 128-byte
// swizzle that wgmma reads: Q and K with their rows along k, V transposed. S, P and O stay in registers:
//   S = Q K^T (wgmma, both from shared memory), P = 2^(S log2e - max), O = O 2^(old max - max) + P V (P from
//   registers).
// Two things run beside the tensor cores: within a warpgroup S of the next tile is started before P V of this one, so
// that its softmax overlaps that product; and the warpgroups take turns in starting products (named barriers), so that
// one does its softmax while the other multiplies. Both are FlashAttention-3's ideas (arXiv 2407.08608).
//
// Bytes: each block reads its K and V once (from L2, mostly): 4 * head_dim * keys for 4 * head_dim * rows * keys flops.

namespace imp::cuda {

/// One warpgroup's 64 rows: scores, running softmax, output.
template <int kHeadDim, class Tiles>
struct WgmmaRows {
  static constexpr int kTileKeys = Tiles::kTileKeys;
  float o[kHeadDim / 2];
  float s[kTileKeys / 2];
  uint32_t probabilities[kTileKeys / 4];
  float max[2] = {-INFINITY, -INFINITY};  // times log2e
  float sum[2] = {};                      // this lane's part
  float rescale[2];

  // Descriptors are sums of a tile's own and constants of 16 bytes; the same value in all lanes, and known to be.
  __device__ __forceinline__ void start_scores(uint32_t q_tile, uint32_t k_tile) {
    const uint64_t q = wgmma_descriptor(__shfl_sync(~0u, q_tile, 0));
    const uint64_t k = wgmma_descriptor(__shfl_sync(~0u, k_tile, 0));
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step)
      WgmmaF16<kTileKeys>::multiply(s, q + (step / 4 * (64 * 128) + step % 4 * 32) / 16,
                                    k + (step / 4 * Tiles::kKvPanelBytes + step % 4 * 32) / 16, step > 0);
    wgmma_commit();
  }
  __device__ __forceinline__ void start_output(uint32_t v_tile) {
    const uint64_t v = wgmma_panels_descriptor(__shfl_sync(~0u, v_tile, 0), Tiles::kKvPanelBytes);
#pragma unroll
    for (int step = 0; step < kTileKeys / 16; ++step)
      WgmmaF16<kHeadDim>::add(o, probabilities + step * 4, v + step * 2048 / 16);
    wgmma_commit();
  }

  /// s becomes 2^(s log2e - max); `rescale` is what o and the sums so far are to be multiplied by.
  __device__ __forceinline__ void softmax(const AttentionParams& p, int first_key, const int (&positions)[2],
                                          bool whole) {
    if (p.softcap > 0) {
#pragma unroll
      for (int i = 0; i < kTileKeys / 2; ++i) s[i] = soft_cap(s[i], p.softcap);
    }
    if (!whole) {
      const int first_column = first_key + threadIdx.x % 4 * 2;
#pragma unroll
      for (int i = 0; i < kTileKeys / 2; ++i) {
        const int key = first_column + i / 4 * 8 + i % 2, position = positions[i / 2 % 2];
        if (key > position || (p.window > 0 && key <= position - p.window)) s[i] = -INFINITY;
      }
    }
    float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int i = 0; i < kTileKeys / 2; ++i) top[i / 2 % 2] = fmaxf(top[i / 2 % 2], s[i]);
    float base[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      top[r] = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], 1));
      top[r] = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], 2));
      const float higher = fmaxf(max[r], top[r] * kLog2e);
      base[r] = higher == -INFINITY ? 0 : higher;  // a row that has seen nothing yet stays zero
      rescale[r] = fast_exp2(max[r] - base[r]);
      max[r] = higher;
      sum[r] *= rescale[r];
    }
#pragma unroll
    for (int i = 0; i < kTileKeys / 2; ++i) {
      s[i] = fast_exp2(fmaf(s[i], kLog2e, -base[i / 2 % 2]));
      sum[i / 2 % 2] += s[i];
    }
  }
  __device__ __forceinline__ void round_probabilities() {
#pragma unroll
    for (int i = 0; i < kTileKeys / 4; ++i) probabilities[i] = pack_half2(s[2 * i], s[2 * i + 1]);
  }
  __device__ __forceinline__ void rescale_output() {
#pragma unroll
    for (int i = 0; i < kHeadDim / 2; ++i) o[i] *= rescale[i / 2 % 2];
  }
};

/// Turns of the computing warpgroups; with one group there is nothing to take turns with.
template <int kGroups>
struct Turns {
  int group;
  __device__ __forceinline__ void open() const {
    if (kGroups > 1 && group == kGroups - 1) pass();
  }
  __device__ __forceinline__ void take() const {
    if (kGroups > 1) named_barrier_sync(1 + group, 256);
  }
  __device__ __forceinline__ void pass() const {
    if (kGroups > 1) named_barrier_arrive(1 + (group + 1) % kGroups, 256);
  }
};

template <int kHeadDim, class Tiles>
__device__ __forceinline__ void compute(const AttentionParams& p, WgmmaWorkList<Tiles> list, uint8_t* q_tiles,
                                        uint32_t k_tiles, uint32_t v_tiles, WgmmaBarriers& barriers) {
  const int lane = threadIdx.x % 32, group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4;
  const auto release = [&](uint64_t& barrier) {
    if (lane == 0) mbarrier_arrive(&barrier);
  };
  const Turns<Tiles::kGroups> turns{group};
  turns.open();
  WgmmaWork work;
  for (int item = 0, step = 0; list.next(work); step += work.num_tiles, ++item) {
    const int first_row = work.first_row + group * 64, num_rows = work.num_rows;
    const int top_row = first_row + warp * 16 + lane / 4;
    const int rows[2] = {top_row, top_row + 8};
    const int positions[2] = {rows[0] < num_rows ? work.span.first_position + rows[0] / p.group : -1,
                              rows[1] < num_rows ? work.span.first_position + rows[1] / p.group : -1};
    // Of all 64 rows: keys up to the lowest position are seen by all, unless a window leaves the first ones out.
    const int lowest = work.span.first_position + first_row / p.group;
    const int highest = work.span.first_position + min(first_row + 63, num_rows - 1) / p.group;
    const auto first_of = [&](int t) { return work.begin + t * Tiles::kTileKeys; };
    const auto whole = [&](int t) {
      return first_row + 64 <= num_rows && first_of(t) + Tiles::kTileKeys - 1 <= lowest &&
             (p.window == 0 || first_of(t) > highest - p.window);
    };
    const int buffer = item % Tiles::kQueryBuffers;
    const uint32_t q_tile = shared_address(q_tiles) + buffer * Tiles::kQueryBytes + group * Tiles::kPanels * 64 * 128;

    WgmmaRows<kHeadDim, Tiles> state;
#pragma unroll
    for (int i = 0; i < kHeadDim / 2; ++i) state.o[i] = 0;
    if (item == 0 || Tiles::kQueryBuffers == 1) {
      if (item > 0) named_barrier_sync(8 + group, 128);  // nobody reads the old ones any more
      copy_queries<kHeadDim, Tiles, 128>(p, work, group * 64, 64, static_cast<int>(threadIdx.x) % 128, q_tiles);
      named_barrier_sync(8 + group, 128);
    } else {
      mbarrier_wait(&barriers.full_q[buffer], (item - 1) / 2 % 2);
    }
    mbarrier_wait(&barriers.full_k[step % Tiles::kStages], step / Tiles::kStages % 2);
    wgmma_fence();
    state.start_scores(q_tile, k_tiles + step % Tiles::kStages * Tiles::kTileBytes);
    wgmma_wait<0>();
    keep_in_place(state.s);
    release(barriers.empty_k[step % Tiles::kStages]);
    state.softmax(p, first_of(0), positions, whole(0));
    state.round_probabilities();
    for (int t = 1; t < work.num_tiles; ++t) {
      const int stage = (step + t) % Tiles::kStages, before = (step + t - 1) % Tiles::kStages;
      mbarrier_wait(&barriers.full_k[stage], (step + t) / Tiles::kStages % 2);
      turns.take();
      wgmma_fence();
      state.start_scores(q_tile, k_tiles + stage * Tiles::kTileBytes);
      mbarrier_wait(&barriers.full_v[before], (step + t - 1) / Tiles::kStages % 2);
      wgmma_fence();
      state.start_output(v_tiles + before * Tiles::kTileBytes);
      turns.pass();
      wgmma_wait<1>();
      keep_in_place(state.s);
      release(barriers.empty_k[stage]);  // S, which was started first, is done with them
      state.softmax(p, first_of(t), positions, whole(t));
      wgmma_wait<0>();
      keep_in_place(state.o);
      release(barriers.empty_v[before]);
      state.round_probabilities();
      state.rescale_output();
    }
    // All threads, for all of them wrote the first ones.
    if (Tiles::kQueryBuffers > 1) mbarrier_arrive(&barriers.empty_q[buffer]);
    const int last = step + work.num_tiles - 1, stage = last % Tiles::kStages;
    mbarrier_wait(&barriers.full_v[stage], last / Tiles::kStages % 2);
    wgmma_fence();
    state.start_output(v_tiles + stage * Tiles::kTileBytes);
    wgmma_wait<0>();
    keep_in_place(state.o);
    release(barriers.empty_v[stage]);

#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sum = state.sum[r];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      if (rows[r] >= num_rows) continue;
      const int64_t at = (work.span.first_token + rows[r] / p.group) * p.out_stride +
                         (work.kv_head * p.group + rows[r] % p.group) * kHeadDim + lane % 4 * 2;
      const float inverse = 1 / sum;
#pragma unroll
      for (int d = 0; d < kHeadDim / 8; ++d)
        store_pair(p, at + d * 8, state.o[4 * d + 2 * r] * inverse, state.o[4 * d + 2 * r + 1] * inverse);
    }
  }
}

template <int kHeadDim, class Tiles>
__global__ __launch_bounds__(Tiles::kThreads, 1) void attention_wgmma_kernel(const AttentionParams p,
                                                                             const __grid_constant__ CUtensorMap k_map,
                                                                             const __grid_constant__ CUtensorMap v_map,
                                                                             int num_sequences, int row_tiles) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t shared[];
  __shared__ WgmmaBarriers barriers;
  uint8_t* q_tiles = shared + (1024 - static_cast<uint32_t>(__cvta_generic_to_shared(shared)) % 1024) % 1024;
  uint8_t* k_tiles = q_tiles + Tiles::kQueryBuffers * Tiles::kQueryBytes;
  uint8_t* v_tiles = k_tiles + Tiles::kStages * Tiles::kTileBytes;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      mbarrier_init(&barriers.full_q[i], 96), mbarrier_init(&barriers.empty_q[i], 128 * Tiles::kGroups);
      mbarrier_init(&barriers.full_k[i], 1), mbarrier_init(&barriers.full_v[i], 1);
      mbarrier_init(&barriers.empty_k[i], 4 * Tiles::kGroups), mbarrier_init(&barriers.empty_v[i], 4 * Tiles::kGroups);
    }
    mbarrier_init(&barriers.tail, 1);
    mbarrier_init_fence();
    tma_prefetch_map(&k_map), tma_prefetch_map(&v_map);
  }
  pdl_trigger();
  pdl_wait();
  __syncthreads();
  const WgmmaWorkList<Tiles> list{p, num_sequences, row_tiles};
  if (threadIdx.x >= 128 * Tiles::kGroups) {
    registers_give<Tiles::kProducerRegisters>();
    if (threadIdx.x / 32 == 4 * Tiles::kGroups)
      copy_keys_and_values<Tiles>(p, list, k_map, v_map, k_tiles, v_tiles, barriers);
    else if (Tiles::kQueryBuffers > 1)
      copy_next_queries<kHeadDim, Tiles>(p, list, q_tiles, barriers);
  } else {
    registers_take<Tiles::kComputeRegisters>();
    compute<kHeadDim, Tiles>(p, list, q_tiles, shared_address(k_tiles), shared_address(v_tiles), barriers);
  }
#endif
}

template <int kHeadDim, class Tiles>
void launch_attention_wgmma(const AttentionArgs& args, const LaunchContext& context) {
  const AttentionParams p = make_params(args);
  const int row_tiles = (args.batch.max_query_len * p.group + Tiles::kRows - 1) / Tiles::kRows;
  const int64_t work = int64_t{row_tiles} * p.num_kv_heads * args.batch.num_sequences;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(work, context.num_sms));
  // The cache does not say how many blocks it has; the block tables name none that it has not.
  constexpr uint64_t kRowsOfCache = uint64_t{1} << 31;
  const auto map = [&](const void* data) {
    return make_tensor_map({.data = data,
                            .bf16 = false,
                            .dims = {kHeadDim, kRowsOfCache},
                            .strides = {kHeadDim * 2},
                            .box = {64, Tiles::kBoxKeys}});
  };
  launch(context, "attention_wgmma", attention_wgmma_kernel<kHeadDim, Tiles>, blocks, Tiles::kThreads,
         Tiles::kSharedBytes, p, map(args.cache.k), map(args.cache.v), args.batch.num_sequences, row_tiles);
}

}  // namespace imp::cuda
