#pragma once
// Prefill product for sm_90a: y[t, n] = sum_k x[t, k] * W[n, k], x bf16, W as packed, fp32 sums.
//
// One block per multiprocessor computes tiles of 128 rows of W by kTokens tokens, 64 of k a step, through a ring of
// stages in shared memory:
//   producers: 2 warpgroups expand the tile's 128 x 64 weights to bf16 with ordinary stores, from registers loaded some
//              steps ahead; one thread has the copy engine bring the tokens' part of x;
//   consumers: 2 warpgroups of 64 rows: wgmma m64 x 128 x k16, W as A, x as B, both from shared memory.
// W is A so that the small side (tokens) can be 128 or 256 and the rows of W stay with the thread that finishes them:
// row r and r + 8 of a warp's 16 are in one thread, so neighbouring rows of y (or a gate and its up) are put there.
//
// Tiles that do not fill a last wave are cut along k (stream-k): every block gets the same number of steps; a block
// that does not hold a tile's first step leaves its sums in scratch, and the one that does adds them in order of k.
//
// Bytes: W packed once per kTokens tokens (through L2), x once per 128 rows (through L2), y once.
#include "device/activation.cuh"
#include "device/pdl.cuh"
#include "device/tma.cuh"
#include "device/wgmma.cuh"
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

struct TileRows {
  int output, first;  // of that output; gated: of both
};
__device__ __forceinline__ TileRows tile_rows(const WgmmaParams& p, int row_tile) {
  if (p.gated) return {0, row_tile * 64};
  int output = 0;
  while (output + 1 < p.num_outputs && row_tile >= p.first_row_tile[output + 1]) ++output;
  return {output, (row_tile - p.first_row_tile[output]) * 128};
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

__device__ __forceinline__ void store_shared(uint32_t address, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}

template <class Codec, int kTokens>
__device__ __forceinline__ void wgmma_produce(const WgmmaParams& p, const CUtensorMap& x, uint8_t* ring, uint64_t* full,
                                              uint64_t* empty) {
  using Tile = WgmmaTile<kTokens>;
  constexpr int kDepth = Codec::kInFlight;
  const int thread = static_cast<int>(threadIdx.x), row = thread / 2, half = row % 16 / 8;
  uint32_t place[4];  // of the thread's chunks in the first stage
#pragma unroll
  for (int i = 0; i < 4; ++i) place[i] = shared_address(ring) + row * 128 + ((thread % 2 * 4 + i) ^ (row % 8)) * 16;

  // The cursor of loads runs kDepth steps before that of stores.
  WgmmaWork::Cursor cursor(p.work, static_cast<int>(blockIdx.x));
  WgmmaItem item;
  bool more = cursor.next(p.work, item);
  int k = 0, token_tile = 0;
  typename Codec::Row source;
  auto start_item = [&] {
    const WgmmaPlace at = p.work.place(item.tile);
    const TileRows rows = tile_rows(p, at.row_tile);
    const PackedView& weight = p.outputs[p.gated ? half : rows.output].weight;
    const int n = rows.first + (p.gated ? row / 16 * 8 + row % 8 : row / 16 * 16 + row % 8 * 2 + half);
    source.set(weight, min(n, weight.rows - 1), p.blocks_per_row);
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

__device__ __forceinline__ void store_pair(float* y, float low, float high, bool aligned, bool both) {
  if (aligned && both) {
    *reinterpret_cast<float2*>(y) = {low, high};
  } else {
    y[0] = low;
    if (both) y[1] = high;
  }
}
__device__ __forceinline__ void store_pair(__nv_bfloat16* y, float low, float high, bool aligned, bool both) {
  if (aligned && both) {
    *reinterpret_cast<uint32_t*>(y) = pack_bf16(low, high);
  } else {
    y[0] = __float2bfloat16(low);
    if (both) y[1] = __float2bfloat16(high);
  }
}
__device__ __forceinline__ void store_one(float* y, float value) { *y = value; }
__device__ __forceinline__ void store_one(__nv_bfloat16* y, float value) { *y = __float2bfloat16(value); }

template <class Out, bool kAccumulate, int kTokens>
__device__ __forceinline__ void store_rows(const WgmmaParams& p, const WgmmaOutput& output,
                                           const float (&d)[kTokens / 2], int n, int first_token) {
  if (n >= output.weight.rows) return;
  const bool both = n + 1 < output.weight.rows;
  const float bias[2] = {output.bias ? output.bias[n] : 0, output.bias && both ? output.bias[n + 1] : 0};
  Out* y = static_cast<Out*>(output.y) + first_token * output.y_stride + n;
  const int left = p.tokens - first_token;
  constexpr int kBatch = 4;  // loads of the residual in flight: 8 tokens
#pragma unroll
  for (int j = 0; j < kTokens / 8; j += kBatch) {
    float before[kBatch * 2][2] = {};
    if constexpr (kAccumulate) {
#pragma unroll
      for (int i = 0; i < kBatch * 2; ++i) {
        const int token = (j + i / 2) * 8 + i % 2;
        const Out* from = y + token * output.y_stride;
        if (token < left) before[i][0] = from[0], before[i][1] = both ? from[1] : 0;
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch * 2; ++i) {
      const int token = (j + i / 2) * 8 + i % 2, at = (j + i / 2) * 4 + i % 2;
      if (token < left)
        store_pair(y + token * output.y_stride, d[at] * output.scale + bias[0] + before[i][0],
                   d[at + 2] * output.scale + bias[1] + before[i][1], p.aligned_pairs, both);
    }
  }
}

template <class Out, int kTokens>
__device__ __forceinline__ void store_gated(const WgmmaParams& p, const float (&d)[kTokens / 2], int n,
                                            int first_token) {
  const WgmmaOutput &gate = p.outputs[0], &up = p.outputs[1];
  if (n >= gate.weight.rows) return;
  const float gate_bias = gate.bias ? gate.bias[n] : 0, up_bias = up.bias ? up.bias[n] : 0;
  Out* y = static_cast<Out*>(gate.y) + first_token * gate.y_stride + n;
  const int left = p.tokens - first_token;
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = j * 8 + i;
      if (token < left)
        store_one(y + token * gate.y_stride, activate_device(p.activation, d[j * 4 + i] * gate.scale + gate_bias) *
                                                 (d[j * 4 + 2 + i] * up.scale + up_bias));
    }
  }
}

/// Sums of a part of a tile that does not begin it: left for the block that has the beginning.
template <int kTokens>
__device__ __forceinline__ void leave_partial(const WgmmaParams& p, const float (&d)[kTokens / 2], int thread) {
  constexpr int kConsumers = WgmmaTile<kTokens>::kConsumers;
  auto* to =
      reinterpret_cast<float4*>(p.partial) + static_cast<int64_t>(blockIdx.x) * (kTokens / 8) * kConsumers + thread;
#pragma unroll
  for (int i = 0; i < kTokens / 8; ++i)
    __stcg(to + i * kConsumers, make_float4(d[i * 4], d[i * 4 + 1], d[i * 4 + 2], d[i * 4 + 3]));
  __threadfence();
  named_barrier_sync(1, kConsumers);
  if (thread == 0) asm volatile("st.release.gpu.global.s32 [%0], 1;" ::"l"(p.flags + blockIdx.x) : "memory");
}

template <int kTokens>
__device__ __forceinline__ void add_partial(const WgmmaParams& p, float (&d)[kTokens / 2], int block, int thread) {
  constexpr int kConsumers = WgmmaTile<kTokens>::kConsumers;
  if (thread == 0) {
    int32_t ready = 0;
    while (!ready) asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(ready) : "l"(p.flags + block) : "memory");
    p.flags[block] = 0;  // for the next launch
  }
  named_barrier_sync(1, kConsumers);
  const auto* from =
      reinterpret_cast<const float4*>(p.partial) + static_cast<int64_t>(block) * (kTokens / 8) * kConsumers + thread;
#pragma unroll
  for (int i = 0; i < kTokens / 8; ++i) {
    const float4 part = __ldcg(from + i * kConsumers);
    d[i * 4] += part.x, d[i * 4 + 1] += part.y, d[i * 4 + 2] += part.z, d[i * 4 + 3] += part.w;
  }
}

template <int kTokens>
__device__ __forceinline__ void wgmma_consume(const WgmmaParams& p, const uint8_t* ring, uint64_t* full,
                                              uint64_t* empty) {
  using Tile = WgmmaTile<kTokens>;
  const int thread = static_cast<int>(threadIdx.x) - Tile::kProducers, lane = thread % 32;
  const uint64_t weights = wgmma_descriptor(shared_address(ring) + thread / 128 * (64 * 128));
  const uint64_t tokens = wgmma_descriptor(shared_address(ring) + Tile::kWeightBytes);
  pdl_wait();  // y and the scratch are written below
  RingPosition<Tile::kStages> at;
  WgmmaWork::Cursor cursor(p.work, static_cast<int>(blockIdx.x));
  WgmmaItem item;
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
    if (item.begin > 0) {
      leave_partial<kTokens>(p, d, thread);
      continue;
    }
    for (int done = item.end, block = static_cast<int>(blockIdx.x) + 1; done < p.work.k_steps; ++block) {
      const int reached = p.work.covered(item.tile, block);
      if (reached > done) add_partial<kTokens>(p, d, block, thread);  // else the block has nothing to do
      done = reached;
    }
    const WgmmaPlace place = p.work.place(item.tile);
    const TileRows rows = tile_rows(p, place.row_tile);
    const int first_token = place.token_tile * kTokens + lane % 4 * 2;
    if (p.gated) {
      const int n = rows.first + thread / 32 * 8 + lane / 4;
      if (p.bf16_out)
        store_gated<__nv_bfloat16, kTokens>(p, d, n, first_token);
      else
        store_gated<float, kTokens>(p, d, n, first_token);
      continue;
    }
    const int n = rows.first + thread / 32 * 16 + lane / 4 * 2;
    const WgmmaOutput& output = p.outputs[rows.output];
    if (p.accumulate)
      store_rows<float, true, kTokens>(p, output, d, n, first_token);
    else if (p.bf16_out)
      store_rows<__nv_bfloat16, false, kTokens>(p, output, d, n, first_token);
    else
      store_rows<float, false, kTokens>(p, output, d, n, first_token);
  }
}

#endif

template <class Codec, int kTokens>
__global__ __launch_bounds__(WgmmaTile<kTokens>::kThreads,
                             1) void gemm_wgmma_kernel(const __grid_constant__ WgmmaParams p,
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
