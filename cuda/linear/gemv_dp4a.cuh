#pragma once
// Decode-time matrix-vector product over packed weights.
//
//   y[t, n] = sum_b d_x[t, b] * dot(block b of row n, int8 codes of h[t, b])       (see linear/gemv.h for the whole
//   meaning)
//
// Mapping: 16 warps a block, a warp takes kRows rows at a time, lane l their blocks l, l + 32, ...; one 128-bit load
// brings a lane 16 bytes of codes. Every block quantises h for itself into shared memory, which costs less than a
// kernel and a trip through memory would. Warps count their row groups across the whole grid first, so that every SM
// gets the same share of the bytes whatever the number of rows. The next group's codes are in flight while this one is
// multiplied, and the first group's are loaded before griddepcontrol.wait, so a launch does not start with a stall.
#include <cuda_runtime.h>

#include <algorithm>

#include "device/activation.cuh"
#include "device/packed_codecs.cuh"
#include "device/pdl.cuh"
#include "device/reduce.cuh"
#include "linear/gemv.h"
#include "runtime/launch.h"

namespace imp::cuda {

inline constexpr int kGemvWarps = 16;
inline constexpr int kGemvThreads = kGemvWarps * 32;

/// Shared memory of one token: codes in strips (as in global memory: chunk, then lane), then (scale, packed sums) a
/// block.
__host__ __device__ constexpr int gemv_blocks_padded(int cols) { return (cols / 32 + 31) / 32 * 32; }
__host__ __device__ constexpr int gemv_token_bytes(int cols) { return gemv_blocks_padded(cols) * (32 + 8); }

struct BlockMeta {
  float scale;
  int16_t sum_low, sum_high;
};

__device__ __forceinline__ ActivationBlock load_activation(const uint8_t* token, int blocks_padded, int block) {
  const int strip = block / 32, lane = block % 32;
  const uint4* codes = reinterpret_cast<const uint4*>(token);
  const uint4 low = codes[(strip * 2) * 32 + lane], high = codes[(strip * 2 + 1) * 32 + lane];
  const BlockMeta meta = reinterpret_cast<const BlockMeta*>(token + blocks_padded * 32)[block];
  ActivationBlock x;
  x.words[0] = low.x, x.words[1] = low.y, x.words[2] = low.z, x.words[3] = low.w;
  x.words[4] = high.x, x.words[5] = high.y, x.words[6] = high.z, x.words[7] = high.w;
  x.scale = meta.scale;
  x.sum_low = meta.sum_low, x.sum_high = meta.sum_high;
  return x;
}

/// Quantises row `x` (times norm_weight where set) into `token`; gives this thread's part of sum(x^2). Eight lanes
/// share a block of 32.
__device__ __forceinline__ float quantize_row(const float* x, const float* norm_weight, int cols, uint8_t* token) {
  const int blocks_padded = gemv_blocks_padded(cols);
  float sum_sq = 0;
  for (int i = threadIdx.x; i < blocks_padded * 8; i += kGemvThreads) {
    float4 v = make_float4(0, 0, 0, 0);
    if (i * 4 < cols) {
      v = *reinterpret_cast<const float4*>(x + i * 4);
      sum_sq += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
      if (norm_weight) {
        const float4 w = *reinterpret_cast<const float4*>(norm_weight + i * 4);
        v.x *= w.x, v.y *= w.y, v.z *= w.z, v.w *= w.w;
      }
    }
    // A NaN becomes the scale of its block, and so shows in the results.
    float amax = max_or_nan(max_or_nan(fabsf(v.x), fabsf(v.y)), max_or_nan(fabsf(v.z), fabsf(v.w)));
#pragma unroll
    for (int offset = 4; offset > 0; offset /= 2) amax = max_or_nan(amax, __shfl_xor_sync(~0u, amax, offset));
    const float scale = amax / 127, inverse = amax > 0 ? 127 / amax : 0;
    const int q0 = __float2int_rn(v.x * inverse), q1 = __float2int_rn(v.y * inverse);
    const int q2 = __float2int_rn(v.z * inverse), q3 = __float2int_rn(v.w * inverse);
    int sum = q0 + q1 + q2 + q3;
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const int other = __shfl_xor_sync(~0u, sum, 4);
    const int block = i / 8, word = i % 8;
    const int at = ((block / 32 * 2 + word / 4) * 32 + block % 32) * 4 + word % 4;
    reinterpret_cast<uint32_t*>(token)[at] =
        (q0 & 255) | (q1 & 255) << 8 | (q2 & 255) << 16 | static_cast<uint32_t>(q3 & 255) << 24;
    if (word == 0) {
      reinterpret_cast<BlockMeta*>(token + blocks_padded * 32)[block] = {scale, static_cast<int16_t>(sum),
                                                                         static_cast<int16_t>(other)};
    }
  }
  return sum_sq;
}

template <class Codec, int kRows, int kTokens>
__global__ __launch_bounds__(kGemvThreads, kTokens <= 2 ? 2 : 1) void gemv_dp4a_kernel(const GemvArgs args,
                                                                                       int total_groups) {
  extern __shared__ __align__(16) uint8_t shared[];
  __shared__ float partial[kGemvWarps][kTokens];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int cols = args.outputs[0].weight.cols, blocks_per_row = cols / 32;
  const int blocks_padded = gemv_blocks_padded(cols), token_bytes = gemv_token_bytes(cols);
  const int step = gridDim.x * kGemvWarps;

  // A group is kRows rows of one output; a gated group is kRows / 2 of each of the two.
  const int rows_per_group = args.gated ? kRows / 2 : kRows;
  struct Rows {
    int output, first;
  };
  auto rows_of = [&](int group) {
    Rows at{0, group * rows_per_group};
    if (!args.gated) {
      while (at.output + 1 < args.num_outputs && at.first >= args.outputs[at.output].weight.rows) {
        // Groups do not cross outputs: each output's rows are rounded up to whole groups.
        const int rows = args.outputs[at.output].weight.rows;
        at.first -= (rows + kRows - 1) / kRows * kRows;
        ++at.output;
      }
    }
    return at;
  };
  auto load = [&](Codec(&codec)[kRows], Rows at, int block) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int output = args.gated ? r % 2 : at.output;
      const PackedView& w = args.outputs[output].weight;
      const int row = min(args.gated ? at.first + r / 2 : at.first + r, w.rows - 1);
      codec[r].load(w.codes, w.scales, w.supers, row, block, blocks_per_row);
    }
  };

  pdl_trigger();
  int group = blockIdx.x + gridDim.x * warp;
  Rows at = rows_of(min(group, total_groups - 1));
  Codec next[kRows];
  const int first_block = min(lane, blocks_per_row - 1);
  load(next, at, first_block);
  pdl_wait();

  float inverse_rms[kTokens];
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (t >= args.tokens) break;
    const int64_t row = args.row_indices ? args.row_indices[t] : t;
    const float sum_sq =
        warp_sum(quantize_row(args.x + row * args.x_stride, args.norm_weight, cols, shared + t * token_bytes));
    if (lane == 0) partial[warp][t] = sum_sq;
  }
  __syncthreads();
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (t >= args.tokens) break;
    float total = 0;
#pragma unroll
    for (int w = 0; w < kGemvWarps; ++w) total += partial[w][t];
    inverse_rms[t] = args.norm_weight ? rsqrtf(total / cols + args.norm_epsilon) : 1.0f;
  }

  for (; group < total_groups; group += step) {
    float acc[kRows][kTokens] = {};
    const Rows following = rows_of(min(group + step, total_groups - 1));
    for (int block = lane; block < blocks_padded; block += 32) {
      Codec now[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) now[r] = next[r];
      if (block + 32 < blocks_padded) {
        load(next, at, min(block + 32, blocks_per_row - 1));
      } else if (group + step < total_groups) {
        load(next, following, first_block);
      }
      if (block < blocks_per_row) {
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
          if (t >= args.tokens) break;
          const ActivationBlock x = load_activation(shared + t * token_bytes, blocks_padded, block);
#pragma unroll
          for (int r = 0; r < kRows; ++r) acc[r][t] += x.scale * now[r].dot(x);
        }
      }
    }
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (t >= args.tokens) break;
#pragma unroll
      for (int r = 0; r < kRows; ++r) acc[r][t] = warp_sum(acc[r][t]) * inverse_rms[t];
    }
    // Lane t writes token t, so that stores of several tokens go out together.
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (t >= args.tokens || lane != t) continue;
      if (args.gated) {
#pragma unroll
        for (int r = 0; r < kRows; r += 2) {
          const int row = at.first + r / 2;
          if (row >= args.outputs[0].weight.rows) break;
          const float g = acc[r][t] * args.outputs[0].scale + (args.outputs[0].bias ? args.outputs[0].bias[row] : 0);
          const float u =
              acc[r + 1][t] * args.outputs[1].scale + (args.outputs[1].bias ? args.outputs[1].bias[row] : 0);
          args.outputs[0].y[t * args.outputs[0].y_stride + row] = activate_device(args.activation, g) * u;
        }
      } else {
        const GemvOutput& out = args.outputs[at.output];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const int row = at.first + r;
          if (row >= out.weight.rows) break;
          float* y = out.y + t * out.y_stride + row;
          const float value = acc[r][t] * out.scale + (out.bias ? out.bias[row] : 0);
          *y = args.accumulate ? *y + value : value;
        }
      }
    }
    at = following;
  }
}

template <class Codec, int kRows, int kTokens>
void launch_gemv(const GemvArgs& args, const LaunchContext& context) {
  const auto kernel = gemv_dp4a_kernel<Codec, kRows, kTokens>;
  const int shared = gemv_token_bytes(args.outputs[0].weight.cols) * args.tokens;
  const int groups = gemv_groups(args, kRows);
  const int blocks_per_sm = kTokens <= 2 ? 2 : 1;
  const int grid = std::min(context.num_sms * blocks_per_sm, (groups + kGemvWarps - 1) / kGemvWarps);
  launch(context, "gemv_dp4a", kernel, grid, kGemvThreads, shared, args, groups);
}

/// The smallest instance that holds the tokens.
template <class Codec, int kRows>
void launch_gemv_tokens(const GemvArgs& args, const LaunchContext& context) {
  if (args.tokens == 1) return launch_gemv<Codec, kRows, 1>(args, context);
  if (args.tokens == 2) return launch_gemv<Codec, kRows, 2>(args, context);
  if (args.tokens <= 4) return launch_gemv<Codec, kRows, 4>(args, context);
  launch_gemv<Codec, kRows, 8>(args, context);
}

}  // namespace imp::cuda
