#pragma once
// The part of attention_wgmma.cuh that brings things: the tiles of a block, and who copies their queries, keys and
// values into shared memory.
#include <cuda_fp16.h>

#include "attention/attention_params.cuh"
#include "device/mma.cuh"
#include "device/tma.cuh"
#include "device/wgmma_f16.cuh"

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
  static constexpr int kQueryBuffers = kHeadDim > 128 ? 1 : 2;
  static constexpr int kSharedBytes =
      kQueryBuffers * kQueryBytes + 2 * kStages * kTileBytes + 1024;  // aligned to a swizzle pattern
  static constexpr int kBoxKeys = 16;                                 // a block of the cache
  static constexpr int kBoxes = kTileKeys / kBoxKeys * kPanels;
  static constexpr int kBoxBytes = kBoxKeys * 128;
  // What the launch gives every thread is shared out anew: the producer needs few, the others all they can have.
  static constexpr int kComputeRegisters = 232, kProducerRegisters = 40;
  static_assert(kGroups == 2, "registers are shared out for two");
};

struct WgmmaBarriers {
  uint64_t full_q[2], empty_q[2], full_k[2], empty_k[2], full_v[2], empty_v[2], tail;
};

/// A tile of query rows and the keys that they see.
struct WgmmaWork {
  SequenceSpan span;
  int kv_head;
  int first_row, num_rows;  // num_rows of the whole sequence
  int begin, end;           // first key of the first tile of keys; behind the last key
  int context;              // keys that exist
  int num_tiles;            // of keys
};

/// The tiles of a block, one after another; the same for all its warps.
template <class Tiles>
struct WgmmaWorkList {
  const AttentionParams& p;
  int num_sequences, row_tiles;
  int round = 0;

  __device__ __forceinline__ bool next(WgmmaWork& work) {
    const int width = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
    const int total = row_tiles * num_sequences * p.num_kv_heads;
    while (round * width < total) {
      const int index = round * width + (round % 2 == 0 ? block : width - 1 - block);
      ++round;
      if (index >= total) continue;
      work.kv_head = index % p.num_kv_heads;
      const int pair = index / p.num_kv_heads;
      work.span = sequence_span(p, pair % num_sequences);
      work.first_row = (row_tiles - 1 - pair / num_sequences) * Tiles::kRows;
      work.num_rows = work.span.num_tokens * p.group;
      if (work.first_row >= work.num_rows) continue;  // of a shorter sequence
      const int last_row = min(work.first_row + Tiles::kRows, work.num_rows) - 1;
      const int lowest = p.window == 0 ? 0 : max(0, work.span.first_position + work.first_row / p.group - p.window + 1);
      work.begin = lowest / Tiles::kTileKeys * Tiles::kTileKeys;
      work.end = work.span.first_position + last_row / p.group + 1;
      work.context = work.span.first_position + work.span.num_tokens;
      work.num_tiles = (work.end - work.begin + Tiles::kTileKeys - 1) / Tiles::kTileKeys;
      return true;
    }
    return false;
  }
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
  __device__ __forceinline__ void copy_tail(uint8_t* tile, int first_key, uint64_t* full, uint64_t* tail,
                                            int parity) const {
    copy(tile, first_key, tail);
    mbarrier_wait(tail, parity);
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
__device__ __forceinline__ void copy_keys_and_values(const AttentionParams& p, WgmmaWorkList<Tiles> list,
                                                     const CUtensorMap& k_map, const CUtensorMap& v_map,
                                                     uint8_t* k_tiles, uint8_t* v_tiles, WgmmaBarriers& barriers) {
  WgmmaWork work;
  for (int step = 0, tails = 0; list.next(work); step += work.num_tiles) {
    const KeyValueProducer<Tiles> k{k_map, work.span.block_table, p.num_kv_heads, work.kv_head, work.context};
    const KeyValueProducer<Tiles> v{v_map, work.span.block_table, p.num_kv_heads, work.kv_head, work.context};
    // V of a tile is needed after K of the next.
    for (int t = 0; t <= work.num_tiles; ++t) {
      if (t < work.num_tiles) {
        const int stage = (step + t) % Tiles::kStages;
        mbarrier_wait(&barriers.empty_k[stage], ((step + t) / Tiles::kStages + 1) % 2);
        k.copy(k_tiles + stage * Tiles::kTileBytes, work.begin + t * Tiles::kTileKeys, &barriers.full_k[stage]);
      }
      if (t > 0) {
        const int stage = (step + t - 1) % Tiles::kStages, first = work.begin + (t - 1) * Tiles::kTileKeys;
        mbarrier_wait(&barriers.empty_v[stage], ((step + t - 1) / Tiles::kStages + 1) % 2);
        uint8_t* tile = v_tiles + stage * Tiles::kTileBytes;
        if (first + Tiles::kTileKeys <= work.context)
          v.copy(tile, first, &barriers.full_v[stage]);
        else
          v.copy_tail(tile, first, &barriers.full_v[stage], &barriers.tail, tails++ % 2);
      }
    }
  }
}

/// Query rows [first, first + count) of the tile of rows: f32 * scale -> f16 in shared memory, [group][panel][64
/// rows][64 dims], swizzled. Rows outside are zero. `thread` of kThreads.
template <int kHeadDim, class Tiles, int kThreads>
__device__ __forceinline__ void copy_queries(const AttentionParams& p, const WgmmaWork& work, int first, int count,
                                             int thread, uint8_t* q_tile) {
  constexpr int kChunks = kHeadDim / 8;  // of eight values, 16 bytes as f16
#pragma unroll kThreads == 128 ? 4 : 2
  for (int i = thread; i < count * kChunks; i += kThreads) {
    const int r = first + i / kChunks, chunk = i % kChunks, row = work.first_row + r;
    float4 low = {}, high = {};
    if (row < work.num_rows) {
      const auto* q = reinterpret_cast<const float4*>(p.q + (work.span.first_token + row / p.group) * p.q_stride +
                                                      (work.kv_head * p.group + row % p.group) * kHeadDim + chunk * 8);
      low = q[0], high = q[1];
    }
    const uint4 packed = {pack_half2(low.x * p.scale, low.y * p.scale), pack_half2(low.z * p.scale, low.w * p.scale),
                          pack_half2(high.x * p.scale, high.y * p.scale),
                          pack_half2(high.z * p.scale, high.w * p.scale)};
    *reinterpret_cast<uint4*>(q_tile + (r / 64 * Tiles::kPanels + chunk / 8) * (64 * 128) + r % 64 * 128 +
                              (chunk % 8 ^ r % 8) * 16) = packed;
  }
  fence_proxy_async();
}

/// The queries of every tile of rows but the first, which those who compute bring themselves: they are more, and have
/// nothing to do yet. By three warps, into the buffer that is not in use.
template <int kHeadDim, class Tiles>
__device__ __forceinline__ void copy_next_queries(const AttentionParams& p, WgmmaWorkList<Tiles> list, uint8_t* q_tiles,
                                                  WgmmaBarriers& barriers) {
  const int thread = static_cast<int>(threadIdx.x) - 128 * Tiles::kGroups - 32;
  WgmmaWork work;
  list.next(work);
  for (int item = 1; list.next(work); ++item) {
    const int buffer = item % 2;
    mbarrier_wait(&barriers.empty_q[buffer], (item / 2 + 1) % 2);
    copy_queries<kHeadDim, Tiles, 96>(p, work, 0, Tiles::kRows, thread, q_tiles + buffer * Tiles::kQueryBytes);
    mbarrier_arrive(&barriers.full_q[buffer]);
  }
}

}  // namespace imp::cuda
