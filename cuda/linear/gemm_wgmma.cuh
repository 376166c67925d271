#pragma once
// Prefill product for sm_90a: y[t, n] = sum_k x[t, k] * W[n, k], x bf16, W as packed, fp32 sums.
//
// One block per multiprocessor computes tiles of 128 rows of W by kTokens tokens, 64 of k a step, through a ring of
// stages in shared memory:
//   producers: 2 warpgroups expand the tile's 128 x 64 weights to bf16 with ordinary stores, from registers loaded some
//              steps ahead; one thread has the copy engine bring the tokens' part of x;
//   consumers: 2 warpgroups of 64 rows: wgmma m64 x 128 x k16, W as A, x as B, both from shared memory.
// W is A so that the small side (tokens) can be 128 or 256 and the rows of W stay with the thread that finishes them
// (fused_gemm_tile.cuh).
//
// Tiles that do not fill a last wave are cut along k (stream-k): every block gets the same number of steps; a block
// that does not hold a tile's first step leaves its sums in scratch, and the one that does adds them in order of k.
//
// Bytes: W packed once per kTokens tokens (through L2), x once per 128 rows (through L2), y once.
#include "device/pdl.cuh"
#include "device/tma.cuh"
#include "device/wgmma.cuh"
#include "linear/fused_gemm_tile.cuh"
#include "linear/gemm_wgmma_codecs.cuh"
#include "linear/gemm_wgmma_kernels.h"

namespace imp::cuda {

template <int kTokens>
struct WgmmaTile {
  static constexpr int kRows = 128, kK = 64;
  static constexpr int kProducers = 256, kConsumers = 256, kThreads = kProducers + kConsumers;
  // Of what a block is launched with, 128 a thread. Asking for more than that waits forever.
  static constexpr int kProducerRegisters = kTokens == 256 ? 80 : 120, kConsumerRegisters = 256 - kProducerRegisters;
  static constexpr int kWeightBytes = kRows * kK * 2, kTokenBytes = kTokens * kK * 2;
  static constexpr int kStageBytes = kWeightBytes + kTokenBytes;
  static constexpr int kStages = kTokens == 256 ? 4 : 6;
  static constexpr int kSharedBytes = kStages * kStageBytes + 2 * kStages * 8 + 1024;  // aligned to 1024 by hand
};

/// A stage of the ring, and the parity of its current use.
template <int kStages>
struct RingPosition {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

__device__ __forceinline__ void store_shared(uint32_t address, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}

template <class Codec, int kTokens>
__device__ __forceinline__ void wgmma_produce(const FusedGemmParams& p, const CUtensorMap& x, uint8_t* ring,
                                              uint64_t* full, uint64_t* empty) {
  using Tile = WgmmaTile<kTokens>;
  constexpr int kDepth = Codec::kInFlight;
  const int thread = static_cast<int>(threadIdx.x), row = thread / 2;
  uint32_t place[4];  // of the thread's chunks in the first stage
#pragma unroll
  for (int i = 0; i < 4; ++i) place[i] = shared_address(ring) + row * 128 + ((thread % 2 * 4 + i) ^ (row % 8)) * 16;

  // The cursor of loads runs kDepth steps before that of stores.
  TileWork::Cursor cursor(p.work, static_cast<int>(blockIdx.x));
  TileItem item;
  bool more = cursor.next(p.work, item);
  int k = 0, token_tile = 0;
  typename Codec::Row source;
  auto start_item = [&] {
    const TilePlace at = p.work.place(item.tile);
    const TileRow of = tile_row(p, tile_rows<Tile::kRows>(p, at.row_tile), row);
    const PackedView& weight = p.outputs[of.output].weight;
    source.set(weight, min(of.n, weight.rows - 1), p.blocks_per_row);
    token_tile = at.token_tile;
    k = item.begin;
  };
  struct Pending {
    Codec block;
    uint32_t tokens_at;  // token tile and step, for the thread that brings x
  } pending[kDepth];
  auto load = [&](Pending& to) {
    if (!more) return;
    const unsigned block = k * 2 + thread % 2, blocks = p.blocks_per_row;
    if (block < blocks)
      to.block.load(source, block, blocks);
    else
      to.block.clear();
    to.tokens_at = static_cast<uint32_t>(token_tile) << 16 | static_cast<uint32_t>(k);
    if (++k == item.end) {
      more = cursor.next(p.work, item);
      if (more) start_item();
    }
  };
  if (more) start_item();
#pragma unroll
  for (int i = 0; i < kDepth; ++i) load(pending[i]);

  const int steps = p.work.steps_of(static_cast<int>(blockIdx.x));
  pdl_wait();  // the weights are constant, x is not
  RingPosition<Tile::kStages> at;
  uint4 values[4];
  pending[0].block.expand(values);
  for (int step = 0; step < steps; step += kDepth) {
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      if (step + i >= steps) break;
      const int offset = at.stage * Tile::kStageBytes;
      mbarrier_wait(&empty[at.stage], at.parity ^ 1);
      if (thread == 0) {
        mbarrier_arrive_expect(&full[at.stage], Tile::kTokenBytes);
        tma_load(ring + offset + Tile::kWeightBytes, &x, &full[at.stage],
                 static_cast<int>(pending[i].tokens_at & 0xffff) * Tile::kK,
                 static_cast<int>(pending[i].tokens_at >> 16) * kTokens);
      }
#pragma unroll
      for (int chunk = 0; chunk < 4; ++chunk) store_shared(place[chunk] + offset, values[chunk]);
      load(pending[i]);
      // A warp has little to do a step, and long waits: the next step is expanded before this one's stores are waited
      // for.
      pending[(i + 1) % kDepth].block.expand(values);
      fence_proxy_async();
      __syncwarp();
      if (thread % 32 == 0) mbarrier_arrive(&full[at.stage]);
      at.advance();
    }
  }
}

template <int kTokens>
__device__ __forceinline__ void wgmma_consume(const FusedGemmParams& p, const uint8_t* ring, uint64_t* full,
                                              uint64_t* empty) {
  using Tile = WgmmaTile<kTokens>;
  const int thread = static_cast<int>(threadIdx.x) - Tile::kProducers, lane = thread % 32;
  const uint64_t weights = wgmma_descriptor(shared_address(ring) + thread / 128 * (64 * 128));
  const uint64_t tokens = wgmma_descriptor(shared_address(ring) + Tile::kWeightBytes);
  pdl_wait();  // y and the scratch are written below
  RingPosition<Tile::kStages> at;
  TileWork::Cursor cursor(p.work, static_cast<int>(blockIdx.x));
  TileItem item;
  float d[kTokens / 2];
  while (cursor.next(p.work, item)) {
    int previous = -1;
    for (int k = item.begin; k < item.end; ++k) {
      mbarrier_wait(&full[at.stage], at.parity);
      const uint64_t offset = static_cast<uint32_t>(at.stage * Tile::kStageBytes) >> 4;
#pragma unroll
      for (int i = 0; i < kTokens / 2; ++i) asm volatile("" : "+f"(d[i])::"memory");
      wgmma_fence();
#pragma unroll
      for (int part = 0; part < Tile::kK / 16; ++part) {
#pragma unroll
        for (int i = 0; i < kTokens / 128; ++i)  // the instruction of 256 columns needs more registers at launch
          wgmma_bf16(reinterpret_cast<float(&)[64]>(d[i * 64]), weights + offset + part * 2,
                     tokens + offset + part * 2 + i * (128 * 128 / 16), k > item.begin || part > 0);
      }
      wgmma_commit();
      if (previous >= 0) {
        wgmma_wait<1>();
        if (lane == 0) mbarrier_arrive(&empty[previous]);
      }
      previous = at.stage;
      at.advance();
    }
    wgmma_wait<0>();
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) asm volatile("" : "+f"(d[i])::"memory");
    if (lane == 0) mbarrier_arrive(&empty[previous]);
    if (!gather_sums(p, d, item, thread)) continue;
    const TilePlace place = p.work.place(item.tile);
    store_fragments<kTokens>(p, d, tile_rows<Tile::kRows>(p, place.row_tile), thread / 32 * 16, place.token_tile);
  }
}

#endif

template <class Codec, int kTokens>
__global__ __launch_bounds__(WgmmaTile<kTokens>::kThreads,
                             1) void gemm_wgmma_kernel(const __grid_constant__ FusedGemmParams p,
                                                       const __grid_constant__ CUtensorMap x) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using Tile = WgmmaTile<kTokens>;
  extern __shared__ uint8_t shared[];
  uint8_t* ring = shared + (1024 - shared_address(shared) % 1024) % 1024;
  auto* full = reinterpret_cast<uint64_t*>(ring + Tile::kStages * Tile::kStageBytes);
  uint64_t* empty = full + Tile::kStages;
  pdl_trigger();
  if (threadIdx.x == 0) {
    tma_prefetch_map(&x);
    for (int i = 0; i < Tile::kStages; ++i) {
      mbarrier_init(&full[i], Tile::kProducers / 32 + 1);  // a warp each, and the one that announces x
      mbarrier_init(&empty[i], Tile::kConsumers / 32);
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < Tile::kProducers) {
    registers_give<Tile::kProducerRegisters>();
    wgmma_produce<Codec, kTokens>(p, x, ring, full, empty);
  } else {
    registers_take<Tile::kConsumerRegisters>();
    wgmma_consume<kTokens>(p, ring, full, empty);
  }
#endif
}

template <class Codec>
WgmmaInstance wgmma_instance_of(int tile_tokens) {
  if (tile_tokens == 256)
    return {gemm_wgmma_kernel<Codec, 256>, WgmmaTile<256>::kThreads, WgmmaTile<256>::kSharedBytes};
  return {gemm_wgmma_kernel<Codec, 128>, WgmmaTile<128>::kThreads, WgmmaTile<128>::kSharedBytes};
}

}  // namespace imp::cuda
