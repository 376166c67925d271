#pragma once
// Beginning and end of a tile of a product that expands weights on the way (fused_gemm.h): which rows of W it has, how
// its sums reach y, and how blocks that share it along k add up.
//
// Sums lie as the tensor cores leave them, 16 rows of W a warp: a lane has rows r = lane / 4 and r + 8, of tokens
// 2 (lane % 4) + {0, 1} of every 8. So that a lane stores pairs (or has a gate with its up), row r of a fragment is
// row 2 r of 16 rows of y and row r + 8 its neighbour; gated: both are row r of 8, of the gate and of the up.
#include <cuda_bf16.h>

#include "device/activation.cuh"
#include "device/mma.cuh"
#include "linear/fused_gemm.h"

namespace imp::cuda {

struct TileRows {
  int output, first;  // of that output; gated: of both
};
template <int kRows>
__device__ __forceinline__ TileRows tile_rows(const FusedGemmParams& p, int row_tile) {
  if (p.gated) return {0, row_tile * (kRows / 2)};
  int output = 0;
  while (output + 1 < p.num_outputs && row_tile >= p.first_row_tile[output + 1]) ++output;
  return {output, (row_tile - p.first_row_tile[output]) * kRows};
}
/// Row `row` of a tile, as its fragments count them: the weight it is of, and which of that weight's rows.
struct TileRow {
  int output, n;
};
__device__ __forceinline__ TileRow tile_row(const FusedGemmParams& p, const TileRows& rows, int row) {
  const int half = row % 16 / 8, r = row % 8;
  if (p.gated) return {half, rows.first + row / 16 * 8 + r};
  return {rows.output, rows.first + row / 16 * 16 + r * 2 + half};
}

__device__ __forceinline__ void store_pair(float* y, float low, float high, bool pairs, bool both) {
  if (pairs) {
    *reinterpret_cast<float2*>(y) = {low, high};
  } else {
    y[0] = low;
    if (both) y[1] = high;
  }
}
__device__ __forceinline__ void store_pair(__nv_bfloat16* y, float low, float high, bool pairs, bool both) {
  if (pairs) {
    *reinterpret_cast<uint32_t*>(y) = pack_bf16(low, high);
  } else {
    y[0] = __float2bfloat16(low);
    if (both) y[1] = __float2bfloat16(high);
  }
}
__device__ __forceinline__ void store_one(float* y, float value) { *y = value; }
__device__ __forceinline__ void store_one(__nv_bfloat16* y, float value) { *y = __float2bfloat16(value); }

template <class Out, bool kAccumulate, int kTokens>
__device__ __forceinline__ void store_rows(const FusedOutput& output, bool aligned, const float (&d)[kTokens / 2],
                                           int n, int left, int first_token) {
  if (n >= output.weight.rows || left <= 0) return;
  const bool both = n + 1 < output.weight.rows, pairs = aligned && both;
  const float bias[2] = {output.bias ? output.bias[n] : 0, output.bias && both ? output.bias[n + 1] : 0};
  const float scale = output.scale;
  const int64_t stride = output.y_stride;
  Out* y = static_cast<Out*>(output.y) + first_token * stride + n;
  constexpr int kBatch = kTokens == 256 ? 2 : 4;  // pairs of tokens whose residual is loaded together
#pragma unroll
  for (int j = 0; j < kTokens / 8; j += kBatch) {
    float before[kBatch * 2][2] = {};
    if constexpr (kAccumulate) {
#pragma unroll
      for (int i = 0; i < kBatch * 2; ++i) {
        const Out* from = y + min((j + i / 2) * 8 + i % 2, left - 1) * stride;
        if (pairs) {
          const float2 pair = *reinterpret_cast<const float2*>(from);
          before[i][0] = pair.x, before[i][1] = pair.y;
        } else {
          before[i][0] = from[0], before[i][1] = from[both ? 1 : 0];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch * 2; ++i) {
      const int token = (j + i / 2) * 8 + i % 2, at = (j + i / 2) * 4 + i % 2;
      if (token >= left) return;
      store_pair(y + token * stride, d[at] * scale + (bias[0] + before[i][0]),
                 d[at + 2] * scale + (bias[1] + before[i][1]), pairs, both);
    }
  }
}

template <class Out, int kTokens>
__device__ __forceinline__ void store_gated(const FusedGemmParams& p, const float (&d)[kTokens / 2], int n, int left,
                                            int first_token) {
  const FusedOutput &gate = p.outputs[0], &up = p.outputs[1];
  if (n >= gate.weight.rows) return;
  const float gate_bias = gate.bias ? gate.bias[n] : 0, up_bias = up.bias ? up.bias[n] : 0;
  const float gate_scale = gate.scale, up_scale = up.scale;
  const int64_t stride = gate.y_stride;
  Out* y = static_cast<Out*>(gate.y) + first_token * stride + n;
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = j * 8 + i;
      if (token >= left) return;
      store_one(y + token * stride, activate_device(p.activation, d[j * 4 + i] * gate_scale + gate_bias) *
                                        (d[j * 4 + 2 + i] * up_scale + up_bias));
    }
  }
}

/// The sums of 16 rows by kTokens, which begin at row `first_row` (a multiple of 16) of the tile, to y.
template <int kTokens>
__device__ __forceinline__ void store_fragments(const FusedGemmParams& p, const float (&d)[kTokens / 2],
                                                const TileRows& rows, int first_row, int token_tile) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first_token = token_tile * kTokens + lane % 4 * 2, left = p.tokens - first_token;
  const int n = tile_row(p, rows, first_row + lane / 4).n;
  if (p.gated) {
    if (p.bf16_out)
      store_gated<__nv_bfloat16, kTokens>(p, d, n, left, first_token);
    else
      store_gated<float, kTokens>(p, d, n, left, first_token);
    return;
  }
  const FusedOutput& output = p.outputs[rows.output];
  if (p.accumulate)
    store_rows<float, true, kTokens>(output, p.aligned_pairs, d, n, left, first_token);
  else if (p.bf16_out)
    store_rows<__nv_bfloat16, false, kTokens>(output, p.aligned_pairs, d, n, left, first_token);
  else
    store_rows<float, false, kTokens>(output, p.aligned_pairs, d, n, left, first_token);
}

/// Of the 256 threads that have a tile's sums; others of the block do not take part.
__device__ __forceinline__ void sums_barrier() { asm volatile("bar.sync 1, 256;" ::: "memory"); }

/// Sums of a part of a tile that does not begin it: left for the block that has the beginning.
template <int kCount>
__device__ __forceinline__ void leave_partial(const FusedGemmParams& p, const float (&d)[kCount], int thread) {
  auto* to = reinterpret_cast<float4*>(p.partial) + static_cast<int64_t>(blockIdx.x) * (kCount / 4) * 256 + thread;
#pragma unroll
  for (int i = 0; i < kCount / 4; ++i)
    __stcg(to + i * 256, make_float4(d[i * 4], d[i * 4 + 1], d[i * 4 + 2], d[i * 4 + 3]));
  __threadfence();
  sums_barrier();
  if (thread == 0) asm volatile("st.release.gpu.global.s32 [%0], 1;" ::"l"(p.flags + blockIdx.x) : "memory");
}

template <int kCount>
__device__ __forceinline__ void add_partial(const FusedGemmParams& p, float (&d)[kCount], int block, int thread) {
  if (thread == 0) {
    int32_t ready = 0;
    while (!ready) asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(ready) : "l"(p.flags + block) : "memory");
    p.flags[block] = 0;  // for the next launch
  }
  sums_barrier();
  const auto* from =
      reinterpret_cast<const float4*>(p.partial) + static_cast<int64_t>(block) * (kCount / 4) * 256 + thread;
#pragma unroll
  for (int i = 0; i < kCount / 4; ++i) {
    const float4 part = __ldcg(from + i * 256);
    d[i * 4] += part.x, d[i * 4 + 1] += part.y, d[i * 4 + 2] += part.z, d[i * 4 + 3] += part.w;
  }
}

/// After an item: true where this block has the tile's beginning, and `d` then has all of the tile's sums.
template <int kCount>
__device__ __forceinline__ bool gather_sums(const FusedGemmParams& p, float (&d)[kCount], const TileItem& item,
                                            int thread) {
  if (item.begin > 0) {
    leave_partial(p, d, thread);
    return false;
  }
  for (int done = item.end, block = static_cast<int>(blockIdx.x) + 1; done < p.work.k_steps; ++block) {
    const int reached = p.work.covered(item.tile, block);
    if (reached > done) add_partial(p, d, block, thread);  // else the block has nothing to do
    done = reached;
  }
  return true;
}

}  // namespace imp::cuda
