// Decode-time matrix-vector product over fp32, f16 and bf16 rows: y[t, n] = sum_k h[t, k] * w[n, k], fp32 sums.
//
// Mapping as in gemv_dp4a.cuh: a warp takes kRows rows, a lane 16 bytes of each at a time, warps counted across the
// grid, the first loads before griddepcontrol.wait. h stays fp32 in shared memory, cut so that a lane's loads of it
// meet no bank twice: for each 16 bytes of weights (kPer of them) h lies as kPer / 4 planes of float4, lane after lane.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>

#include "core/error.h"
#include "device/activation.cuh"
#include "device/load.cuh"
#include "device/pdl.cuh"
#include "device/reduce.cuh"
#include "linear/gemv.h"

namespace imp::cuda {
namespace {

constexpr int kWarps = 16;
constexpr int kThreads = kWarps * 32;

template <WeightFormat kFormat>
constexpr int kPer = kFormat == WeightFormat::f32 ? 4 : 8;  // weights in 16 bytes

template <WeightFormat kFormat>
__device__ __forceinline__ void to_floats(const uint4& raw, float (&out)[kPer<kFormat>]) {
  const uint32_t w[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (kFormat == WeightFormat::f32) {
      out[i] = __uint_as_float(w[i]);
    } else if constexpr (kFormat == WeightFormat::bf16) {
      out[i * 2] = __uint_as_float(w[i] << 16);
      out[i * 2 + 1] = __uint_as_float(w[i] & 0xffff0000u);
    } else {
      const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&w[i]));
      out[i * 2] = pair.x, out[i * 2 + 1] = pair.y;
    }
  }
}

template <WeightFormat kFormat, int kRows, int kTokens>
__global__ __launch_bounds__(kThreads, kTokens <= 2 ? 2 : 1) void gemv_rows_kernel(const GemvArgs args,
                                                                                   int total_groups) {
  extern __shared__ __align__(16) float shared[];
  __shared__ float partial[kWarps][kTokens];
  constexpr int kWeights = kPer<kFormat>, kPlanes = kWeights / 4;
  constexpr int kBytes = kFormat == WeightFormat::f32 ? 4 : 2;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int cols = args.outputs[0].weight.cols, chunks = cols / kWeights, chunks_padded = (chunks + 31) / 32 * 32;
  const int token_floats = chunks_padded * kWeights;
  const int step = gridDim.x * kWarps;
  const int rows_per_group = args.gated ? kRows / 2 : kRows;

  struct Rows {
    int output, first;
  };
  auto rows_of = [&](int group) {
    Rows at{0, group * rows_per_group};
    if (!args.gated) {
      while (at.output + 1 < args.num_outputs && at.first >= args.outputs[at.output].weight.rows) {
        at.first -= (args.outputs[at.output].weight.rows + kRows - 1) / kRows * kRows;
        ++at.output;
      }
    }
    return at;
  };
  auto load = [&](uint4(&raw)[kRows], Rows at, int chunk) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const PackedView& w = args.outputs[args.gated ? r % 2 : at.output].weight;
      const int64_t row = min(args.gated ? at.first + r / 2 : at.first + r, w.rows - 1);
      raw[r] = load_stream_16(w.codes + (row * cols + chunk * kWeights) * kBytes);
    }
  };

  pdl_trigger();
  int group = blockIdx.x + gridDim.x * warp;
  Rows at = rows_of(min(group, total_groups - 1));
  uint4 next[kRows];
  const int first_chunk = min(lane, chunks - 1);
  load(next, at, first_chunk);
  pdl_wait();

  float inverse_rms[kTokens];
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (t >= args.tokens) break;
    const float* x = args.x + (args.row_indices ? args.row_indices[t] : t) * args.x_stride;
    float sum_sq = 0;
    for (int i = threadIdx.x; i < chunks_padded * kPlanes; i += kThreads) {
      float4 v = make_float4(0, 0, 0, 0);
      if (i * 4 < cols) {
        v = *reinterpret_cast<const float4*>(x + i * 4);
        sum_sq += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
        if (args.norm_weight) {
          const float4 w = *reinterpret_cast<const float4*>(args.norm_weight + i * 4);
          v.x *= w.x, v.y *= w.y, v.z *= w.z, v.w *= w.w;
        }
      }
      const int chunk = i / kPlanes, plane = i % kPlanes;
      reinterpret_cast<float4*>(shared + t * token_floats)[(chunk / 32 * kPlanes + plane) * 32 + chunk % 32] = v;
    }
    sum_sq = warp_sum(sum_sq);
    if (lane == 0) partial[warp][t] = sum_sq;
  }
  __syncthreads();
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (t >= args.tokens) break;
    float total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += partial[w][t];
    inverse_rms[t] = args.norm_weight ? rsqrtf(total / cols + args.norm_epsilon) : 1.0f;
  }

  for (; group < total_groups; group += step) {
    float acc[kRows][kTokens] = {};
    const Rows following = rows_of(min(group + step, total_groups - 1));
    for (int chunk = lane; chunk < chunks_padded; chunk += 32) {
      uint4 now[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) now[r] = next[r];
      if (chunk + 32 < chunks_padded) {
        load(next, at, min(chunk + 32, chunks - 1));
      } else if (group + step < total_groups) {
        load(next, following, first_chunk);
      }
      if (chunk < chunks) {
        float w[kRows][kWeights];
#pragma unroll
        for (int r = 0; r < kRows; ++r) to_floats<kFormat>(now[r], w[r]);
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
          if (t >= args.tokens) break;
#pragma unroll
          for (int plane = 0; plane < kPlanes; ++plane) {
            const float4 x = reinterpret_cast<const float4*>(
                shared + t * token_floats)[(chunk / 32 * kPlanes + plane) * 32 + chunk % 32];
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
              const float* v = w[r] + plane * 4;
              acc[r][t] += x.x * v[0] + x.y * v[1] + x.z * v[2] + x.w * v[3];
            }
          }
        }
      }
    }
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (t >= args.tokens) break;
#pragma unroll
      for (int r = 0; r < kRows; ++r) acc[r][t] = warp_sum(acc[r][t]) * inverse_rms[t];
    }
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

template <WeightFormat kFormat, int kTokens>
void launch_rows(const GemvArgs& args, const LaunchContext& context) {
  constexpr int kRows = 2;
  const auto kernel = gemv_rows_kernel<kFormat, kRows, kTokens>;
  const int groups = gemv_groups(args, kRows);
  const int grid = std::min(context.num_sms * (kTokens <= 2 ? 2 : 1), (groups + kWarps - 1) / kWarps);
  launch(context, "gemv_rows", kernel, grid, kThreads,
         gemv_rows_shared_bytes(kFormat, args.outputs[0].weight.cols, args.tokens), args, groups);
}

template <WeightFormat kFormat>
void launch_tokens(const GemvArgs& args, const LaunchContext& context) {
  if (args.tokens == 1) return launch_rows<kFormat, 1>(args, context);
  if (args.tokens == 2) return launch_rows<kFormat, 2>(args, context);
  if (args.tokens <= 4) return launch_rows<kFormat, 4>(args, context);
  launch_rows<kFormat, 8>(args, context);
}

}  // namespace

int gemv_rows_shared_bytes(WeightFormat format, int cols, int tokens) {
  const int per = format == WeightFormat::f32 ? 4 : 8;
  return (cols / per + 31) / 32 * 32 * per * 4 * tokens;
}

void gemv_rows(WeightFormat format, const GemvArgs& args, const LaunchContext& context) {
  if (args.tokens == 0) return;
  switch (format) {
    case WeightFormat::f32: return launch_tokens<WeightFormat::f32>(args, context);
    case WeightFormat::f16: return launch_tokens<WeightFormat::f16>(args, context);
    case WeightFormat::bf16: return launch_tokens<WeightFormat::bf16>(args, context);
    default: fail(ErrorCode::internal, "gemv_rows takes float formats");
  }
}

}  // namespace imp::cuda
