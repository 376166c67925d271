#pragma once
#include <cuda_fp16.h>

#include "attention/attention.h"
#include "attention/attention_params.cuh"
#include "device/math.cuh"
#include "device/mma.cuh"
#include "device/pdl.cuh"
#include "device/tma.cuh"
#include "device/wgmma_f16.cuh"
#include "runtime/tensor_map.h"

// Prefill attention for sm_90a. Formula: AttentionArgs; a query row is a (token, head of the kv group) pair.
//
// Grid: (tiles of 64 * kGroups query rows, kv heads, sequences), the later rows, which see more keys, first. A block is
// kGroups warpgroups that compute, 64 rows each, and a producer, one warp that copies K and V a tile of kTileKeys keys
// at a time through two stages of shared memory: a box of 16 keys x 64 dims for each block of the cache. A tile in
// shared memory is panels of 64 dims, [kTileKeys][64] f16 each, in the 128-byte swizzle that wgmma reads: K with its
// rows along k, V transposed. S, P and O stay in registers:
//   S = Q K^T (wgmma, both from shared memory), P = 2^(S log2e - max), O = O 2^(old max - max) + P V (P from
//   registers).
// Two things run beside the tensor cores: within a warpgroup S of the next tile is started before P V of this one, so
// that its softmax overlaps that product; and the warpgroups take turns in starting products (named barriers), so that
// one does its softmax while the other multiplies. Both are FlashAttention-3's ideas (arXiv 2407.08608).
//
// Bytes: each block reads its K and V once (from L2, mostly): 4 * head_dim * keys for 4 * head_dim * rows * keys flops.

namespace imp::cuda {

template <int kHeadDim, int kTileKeys_, int kGroups_>
struct WgmmaTiles {
  static constexpr int kTileKeys = kTileKeys_, kGroups = kGroups_;
  static constexpr int kRows = 64 * kGroups;
  static constexpr int kThreads = 128 * (kGroups + 1);
  static constexpr int kPanels = kHeadDim / 64;
  static constexpr int kStages = 2;
  static constexpr int kKvPanelBytes = kTileKeys * 128;
  static constexpr int kTileBytes = kPanels * kKvPanelBytes;
  static constexpr int kQueryBytes = kGroups * kPanels * 64 * 128;  // [group][panel][64 rows][64 dims]
  static constexpr int kSharedBytes = kQueryBytes + 2 * kStages * kTileBytes + 1024;  // aligned to a swizzle pattern
  static constexpr int kBoxKeys = 16;                                                 // a block of the cache
  static constexpr int kBoxes = kTileKeys / kBoxKeys * kPanels;
  static constexpr int kBoxBytes = kBoxKeys * 128;
  // What the launch gives every thread is shared out anew: the producer needs few, the others all they can have.
  static constexpr int kComputeRegisters = kGroups == 2 ? 240 : 160;
  static constexpr int kProducerRegisters = kGroups == 2 ? 24 : 32;
};

struct WgmmaBarriers {
  uint64_t full_k[2], empty_k[2], full_v[2], empty_v[2], tail;
};

/// The keys that a block's rows see, in tiles.
struct KeyRange {
  int begin, end;  // first key of the first tile; behind the last key
  int context;     // keys that exist
};

/// The producer: one warp. A lane copies its share of a tile's boxes.
template <class Tiles>
struct KeyValueProducer {
  const CUtensorMap& map;
  const int32_t* block_table;
  int num_kv_heads, kv_head, context;

  __device__ __forceinline__ void copy(uint8_t* tile, int first_key, uint64_t* full) const {
    const int lane = threadIdx.x % 32;
    const int blocks = min(Tiles::kTileKeys / Tiles::kBoxKeys, (context - first_key + 15) / Tiles::kBoxKeys);
    if (lane == 0) mbarrier_arrive_expect(full, static_cast<uint32_t>(blocks * Tiles::kPanels * Tiles::kBoxBytes));
    __syncwarp();
    for (int i = lane; i < blocks * Tiles::kPanels; i += 32) {
      const int block = i / Tiles::kPanels, panel = i % Tiles::kPanels;
      const int row = (block_table[first_key / Tiles::kBoxKeys + block] * num_kv_heads + kv_head) * Tiles::kBoxKeys;
      tma_load(tile + panel * Tiles::kKvPanelBytes + block * Tiles::kBoxBytes, &map, full, panel * 64, row);
    }
  }
  /// The tile that the context ends in: what lies behind is zero, so that no NaN of a slot that nobody filled meets a
  /// probability of zero. `tail` counts the copies; the tile is full when the zeros are in it, too.
  __device__ __forceinline__ void copy_tail(uint8_t* tile, int first_key, uint64_t* full, uint64_t* tail) const {
    copy(tile, first_key, tail);
    mbarrier_wait(tail, 0);
    const int first_row = context - first_key;
    // Rows keep their place under the swizzle; it only moves 16-byte chunks within one.
    for (int i = threadIdx.x % 32; i < (Tiles::kTileKeys - first_row) * Tiles::kPanels * 8; i += 32) {
      const int row = first_row + i / (Tiles::kPanels * 8), chunk = i % (Tiles::kPanels * 8);
      *reinterpret_cast<uint4*>(tile + chunk / 8 * Tiles::kKvPanelBytes + row * 128 + chunk % 8 * 16) = uint4{};
    }
    fence_proxy_async();
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(full);
  }
};

template <class Tiles>
__device__ __forceinline__ void produce(const AttentionParams& p, const SequenceSpan& span, const CUtensorMap& k_map,
                                        const CUtensorMap& v_map, int kv_head, const KeyRange& keys, uint8_t* k_tiles,
                                        uint8_t* v_tiles, WgmmaBarriers& barriers) {
  const KeyValueProducer<Tiles> k{k_map, span.block_table, p.num_kv_heads, kv_head, keys.context};
  const KeyValueProducer<Tiles> v{v_map, span.block_table, p.num_kv_heads, kv_head, keys.context};
  const int count = (keys.end - keys.begin + Tiles::kTileKeys - 1) / Tiles::kTileKeys;
  // V of a tile is needed after K of the next.
  for (int t = 0; t <= count; ++t) {
    if (t < count) {
      const int stage = t % Tiles::kStages;
      mbarrier_wait(&barriers.empty_k[stage], (t / Tiles::kStages + 1) % 2);
      k.copy(k_tiles + stage * Tiles::kTileBytes, keys.begin + t * Tiles::kTileKeys, &barriers.full_k[stage]);
    }
    if (t > 0) {
      const int stage = (t - 1) % Tiles::kStages, first = keys.begin + (t - 1) * Tiles::kTileKeys;
      mbarrier_wait(&barriers.empty_v[stage], ((t - 1) / Tiles::kStages + 1) % 2);
      uint8_t* tile = v_tiles + stage * Tiles::kTileBytes;
      if (first + Tiles::kTileKeys <= keys.context)
        v.copy(tile, first, &barriers.full_v[stage]);
      else
        v.copy_tail(tile, first, &barriers.full_v[stage], &barriers.tail);
    }
  }
}

/// 64 query rows of a warpgroup: f32 * scale -> f16 in shared memory, swizzled. Rows outside are zero.
template <int kHeadDim>
__device__ __forceinline__ void store_queries(const AttentionParams& p, const SequenceSpan& span, int kv_head,
                                              int first_row, int num_rows, uint8_t* q_tile) {
  constexpr int kChunks = kHeadDim / 8;  // of eight values, 16 bytes as f16
  for (int i = threadIdx.x % 128; i < 64 * kChunks; i += 128) {
    const int r = i / kChunks, chunk = i % kChunks, row = first_row + r;
    float4 low = {}, high = {};
    if (row < num_rows) {
      const auto* q = reinterpret_cast<const float4*>(p.q + (span.first_token + row / p.group) * p.q_stride +
                                                      (kv_head * p.group + row % p.group) * kHeadDim + chunk * 8);
      low = q[0], high = q[1];
    }
    const uint4 packed = {pack_half2(low.x * p.scale, low.y * p.scale), pack_half2(low.z * p.scale, low.w * p.scale),
                          pack_half2(high.x * p.scale, high.y * p.scale),
                          pack_half2(high.z * p.scale, high.w * p.scale)};
    *reinterpret_cast<uint4*>(q_tile + chunk / 8 * (64 * 128) + r * 128 + (chunk % 8 ^ r % 8) * 16) = packed;
  }
}

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

  __device__ __forceinline__ void start_scores(uint32_t q_tile, uint32_t k_tile) {
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) {
      const uint32_t within = step % 4 * 32;
      WgmmaF16<kTileKeys>::multiply(s, wgmma_descriptor(q_tile + step / 4 * (64 * 128) + within),
                                    wgmma_descriptor(k_tile + step / 4 * Tiles::kKvPanelBytes + within), step > 0);
    }
    wgmma_commit();
  }
  __device__ __forceinline__ void start_output(uint32_t v_tile) {
#pragma unroll
    for (int step = 0; step < kTileKeys / 16; ++step)
      WgmmaF16<kHeadDim>::add(o, probabilities + step * 4,
                              wgmma_panels_descriptor(v_tile + step * 2048, Tiles::kKvPanelBytes));
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
__device__ __forceinline__ void compute(const AttentionParams& p, const SequenceSpan& span, int kv_head, int first_row,
                                        int num_rows, const KeyRange& keys, uint8_t* q_tile, uint32_t k_tiles,
                                        uint32_t v_tiles, WgmmaBarriers& barriers) {
  const int lane = threadIdx.x % 32, group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4;
  store_queries<kHeadDim>(p, span, kv_head, first_row, num_rows, q_tile);
  fence_proxy_async();
  named_barrier_sync(8 + group, 128);

  const int top_row = first_row + warp * 16 + lane / 4;
  const int rows[2] = {top_row, top_row + 8};
  const int positions[2] = {rows[0] < num_rows ? span.first_position + rows[0] / p.group : -1,
                            rows[1] < num_rows ? span.first_position + rows[1] / p.group : -1};
  // Of all 64 rows: keys up to the lowest position are seen by all, unless a window leaves the first ones out.
  const int lowest = span.first_position + first_row / p.group;
  const int highest = span.first_position + min(first_row + 63, num_rows - 1) / p.group;
  const int count = (keys.end - keys.begin + Tiles::kTileKeys - 1) / Tiles::kTileKeys;
  const auto first_of = [&](int t) { return keys.begin + t * Tiles::kTileKeys; };
  const auto whole = [&](int t) {
    return first_row + 64 <= num_rows && first_of(t) + Tiles::kTileKeys - 1 <= lowest &&
           (p.window == 0 || first_of(t) > highest - p.window);
  };
  const auto release = [&](uint64_t& barrier) {
    if (lane == 0) mbarrier_arrive(&barrier);
  };
  const Turns<Tiles::kGroups> turns{group};
  const auto q_address = static_cast<uint32_t>(__cvta_generic_to_shared(q_tile));

  WgmmaRows<kHeadDim, Tiles> state;
#pragma unroll
  for (int i = 0; i < kHeadDim / 2; ++i) state.o[i] = 0;
  turns.open();
  mbarrier_wait(&barriers.full_k[0], 0);
  wgmma_fence();
  state.start_scores(q_address, k_tiles);
  wgmma_wait<0>();
  keep_in_place(state.s);
  release(barriers.empty_k[0]);
  state.softmax(p, first_of(0), positions, whole(0));
  state.round_probabilities();
  for (int t = 1; t < count; ++t) {
    const int stage = t % Tiles::kStages, before = (t - 1) % Tiles::kStages;
    mbarrier_wait(&barriers.full_k[stage], t / Tiles::kStages % 2);
    turns.take();
    wgmma_fence();
    state.start_scores(q_address, k_tiles + stage * Tiles::kTileBytes);
    mbarrier_wait(&barriers.full_v[before], (t - 1) / Tiles::kStages % 2);
    wgmma_fence();
    state.start_output(v_tiles + before * Tiles::kTileBytes);
    turns.pass();
    wgmma_wait<1>();
    keep_in_place(state.s);
    release(barriers.empty_k[stage]);
    state.softmax(p, first_of(t), positions, whole(t));
    wgmma_wait<0>();
    keep_in_place(state.o);
    release(barriers.empty_v[before]);
    state.round_probabilities();
    state.rescale_output();
  }
  const int last = (count - 1) % Tiles::kStages;
  mbarrier_wait(&barriers.full_v[last], (count - 1) / Tiles::kStages % 2);
  wgmma_fence();
  state.start_output(v_tiles + last * Tiles::kTileBytes);
  wgmma_wait<0>();
  keep_in_place(state.o);

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = state.sum[r];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (rows[r] >= num_rows) continue;
    const int64_t at = (span.first_token + rows[r] / p.group) * p.out_stride +
                       (kv_head * p.group + rows[r] % p.group) * kHeadDim + lane % 4 * 2;
    const float inverse = 1 / sum;
#pragma unroll
    for (int d = 0; d < kHeadDim / 8; ++d)
      store_pair(p, at + d * 8, state.o[4 * d + 2 * r] * inverse, state.o[4 * d + 2 * r + 1] * inverse);
  }
}

template <int kHeadDim, class Tiles>
__global__ __launch_bounds__(Tiles::kThreads,
                             1) void attention_wgmma_kernel(const AttentionParams p,
                                                            const __grid_constant__ CUtensorMap k_map,
                                                            const __grid_constant__ CUtensorMap v_map) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ uint8_t shared[];
  __shared__ WgmmaBarriers barriers;
  uint8_t* q_tiles = shared + (1024 - static_cast<uint32_t>(__cvta_generic_to_shared(shared)) % 1024) % 1024;
  uint8_t* k_tiles = q_tiles + Tiles::kQueryBytes;
  uint8_t* v_tiles = k_tiles + Tiles::kStages * Tiles::kTileBytes;
  if (threadIdx.x == 0) {
    for (int i = 0; i < Tiles::kStages; ++i) {
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

  const int kv_head = blockIdx.y;
  const SequenceSpan span = sequence_span(p, blockIdx.z);
  const int num_rows = span.num_tokens * p.group;
  const int tile_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) * Tiles::kRows;
  if (tile_row >= num_rows) return;
  const int last_row = min(tile_row + Tiles::kRows, num_rows) - 1;
  const int lowest = p.window == 0 ? 0 : max(0, span.first_position + tile_row / p.group - p.window + 1);
  const KeyRange keys = {lowest / Tiles::kTileKeys * Tiles::kTileKeys, span.first_position + last_row / p.group + 1,
                         span.first_position + span.num_tokens};
  if (threadIdx.x >= 128 * Tiles::kGroups) {
    registers_give<Tiles::kProducerRegisters>();
    if (threadIdx.x / 32 == 4 * Tiles::kGroups)
      produce<Tiles>(p, span, k_map, v_map, kv_head, keys, k_tiles, v_tiles, barriers);
  } else {
    registers_take<Tiles::kComputeRegisters>();
    const int group = static_cast<int>(threadIdx.x / 128);
    compute<kHeadDim, Tiles>(p, span, kv_head, tile_row + group * 64, num_rows, keys,
                             q_tiles + group * Tiles::kPanels * 64 * 128,
                             static_cast<uint32_t>(__cvta_generic_to_shared(k_tiles)),
                             static_cast<uint32_t>(__cvta_generic_to_shared(v_tiles)), barriers);
  }
#endif
}

template <int kHeadDim, class Tiles>
void launch_attention_wgmma(const AttentionArgs& args, const LaunchContext& context) {
  const AttentionParams p = make_params(args);
  const int rows = args.batch.max_query_len * p.group;
  const dim3 grid(static_cast<unsigned>((rows + Tiles::kRows - 1) / Tiles::kRows),
                  static_cast<unsigned>(p.num_kv_heads), static_cast<unsigned>(args.batch.num_sequences));
  // The cache does not say how many blocks it has; the block tables name none that it has not.
  constexpr uint64_t kRowsOfCache = uint64_t{1} << 31;
  const auto map = [&](const void* data) {
    return make_tensor_map({.data = data,
                            .bf16 = false,
                            .dims = {kHeadDim, kRowsOfCache},
                            .strides = {kHeadDim * 2},
                            .box = {64, Tiles::kBoxKeys}});
  };
  launch(context, "attention_wgmma", attention_wgmma_kernel<kHeadDim, Tiles>, grid, Tiles::kThreads,
         Tiles::kSharedBytes, p, map(args.cache.k), map(args.cache.v));
}

}  // namespace imp::cuda
