// Rows of activations as the bf16 (or f16) inputs of a prefill product, with or without the norm in front of it:
//   out[t, c] = bf16(norm_weight[c] * x[row(t), c] / sqrt(mean(x[row(t), :]^2) + epsilon))     (or bf16(x[row(t), c]))
// One block a row. Vector kernel: a thread holds kVectors groups of 8 columns in registers, so that x is read once
// (two 16-byte loads a group) and out written once (16 bytes a group): 6 bytes a value of fp32, 4 of bf16. The scalar
// kernel takes rows of any width and alignment and reads x twice behind a norm.
#include <cuda_bf16.h>

#include "device/pdl.cuh"
#include "device/reduce.cuh"
#include "device/vector8.cuh"
#include "norm/elementwise.h"

namespace imp::cuda {
namespace {

constexpr int kMaxThreads = 512;

__device__ float block_sum(float value) {
  __shared__ float partial[kMaxThreads / 32];
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x) / 32; ++w) total += partial[w];
  return total;
}

template <class In, class Out, int kVectors>
__global__ __launch_bounds__(kMaxThreads) void to_bf16_vector_kernel(ToBf16Args args) {
  pdl_trigger();
  pdl_wait();
  const int t = blockIdx.x, groups = args.cols / 8;
  const In* x = static_cast<const In*>(args.x) + (args.row_indices ? args.row_indices[t] : t) * args.x_stride;
  auto* out = static_cast<Out*>(args.out) + static_cast<int64_t>(t) * args.cols;
  float v[kVectors][8];
  float sum_sq = 0;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int group = i * blockDim.x + threadIdx.x;
    if (group >= groups) continue;
    load_8(x + group * 8, v[i]);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum_sq += v[i][j] * v[i][j];
  }
  const float scale = args.norm_weight ? rsqrtf(block_sum(sum_sq) / args.cols + args.norm_epsilon) : 1.0f;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int group = i * blockDim.x + threadIdx.x;
    if (group >= groups) continue;
    float w[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    if (args.norm_weight) load_8(args.norm_weight + group * 8, w);
#pragma unroll
    for (int j = 0; j < 8; ++j) v[i][j] = v[i][j] * scale * w[j];
    store_8(out + group * 8, v[i]);
  }
}

template <class In, class Out>
__global__ __launch_bounds__(kMaxThreads) void to_bf16_scalar_kernel(ToBf16Args args) {
  pdl_trigger();
  pdl_wait();
  const int t = blockIdx.x;
  const In* x = static_cast<const In*>(args.x) + (args.row_indices ? args.row_indices[t] : t) * args.x_stride;
  auto* out = static_cast<Out*>(args.out) + static_cast<int64_t>(t) * args.cols;
  float scale = 1;
  if (args.norm_weight) {
    float sum_sq = 0;
    for (int c = threadIdx.x; c < args.cols; c += blockDim.x) {
      const auto value = static_cast<float>(x[c]);
      sum_sq += value * value;
    }
    scale = rsqrtf(block_sum(sum_sq) / args.cols + args.norm_epsilon);
  }
  for (int c = threadIdx.x; c < args.cols; c += blockDim.x)
    out[c] = Out(static_cast<float>(x[c]) * scale * (args.norm_weight ? args.norm_weight[c] : 1.0f));
}

template <class In, class Out>
void launch_to_bf16(const ToBf16Args& args, const LaunchContext& context) {
  const char* name = args.out_type == DType::f16 ? "to_f16" : "to_bf16";
  const auto grid = static_cast<unsigned>(args.tokens);
  const int groups = args.cols / 8;
  const bool vectors = args.cols % 8 == 0 && args.x_stride * static_cast<int64_t>(sizeof(In)) % 16 == 0 &&
                       aligned_16(args.x) && aligned_16(args.out) && aligned_16(args.norm_weight) &&
                       groups <= 4 * kMaxThreads;
  if (!vectors) return launch(context, name, to_bf16_scalar_kernel<In, Out>, grid, 256u, 0, args);
  const auto threads = [&](int per_thread) {
    return static_cast<unsigned>(((groups + per_thread - 1) / per_thread + 31) / 32 * 32);
  };
  if (groups <= 2 * 256) return launch(context, name, to_bf16_vector_kernel<In, Out, 2>, grid, threads(2), 0, args);
  launch(context, name, to_bf16_vector_kernel<In, Out, 4>, grid, threads(4), 0, args);
}

}  // namespace

void to_bf16(const ToBf16Args& args, const LaunchContext& context) {
  if (args.tokens == 0) return;
  const bool from_bf16 = args.x_type == DType::bf16;
  if (args.out_type == DType::f16)
    return from_bf16 ? launch_to_bf16<__nv_bfloat16, __half>(args, context)
                     : launch_to_bf16<float, __half>(args, context);
  from_bf16 ? launch_to_bf16<__nv_bfloat16, __nv_bfloat16>(args, context)
            : launch_to_bf16<float, __nv_bfloat16>(args, context);
}

}  // namespace imp::cuda
