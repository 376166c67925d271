// Rows as e4m3 with one fp32 scale each, with or without a norm in front: the inputs (and, at load, the weights) of
// prefill products in fp8. One block a row; a thread holds kVectors groups of 8 columns in registers, so x is read
// once. Bytes moved, a value: 4 (fp32) or 2 (bf16) read, 1 written.
#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "core/error.h"
#include "device/pdl.cuh"
#include "device/reduce.cuh"
#include "device/vector8.cuh"
#include "norm/to_e4m3.h"

namespace imp::cuda {
namespace {

constexpr int kMaxThreads = 512;
constexpr float kLargest = 448;  // of e4m3

/// Combines one value a thread over the block; the same in all threads. `shared` is used once.
template <class Combine>
__device__ float block_combine(float value, float* shared, const Combine& combine) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value = combine(value, __shfl_xor_sync(~0u, value, offset));
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  float all = shared[0];
  for (int w = 1; w < static_cast<int>(blockDim.x) / 32; ++w) all = combine(all, shared[w]);
  return all;
}

template <class In, int kVectors>
__global__ __launch_bounds__(kMaxThreads) void to_e4m3_kernel(ToBf16Args args, uint8_t* codes, float* scales) {
  __shared__ float sums[kMaxThreads / 32], maxima[kMaxThreads / 32];
  pdl_trigger();
  pdl_wait();
  const int t = blockIdx.x, groups = args.cols / 8;
  const In* x = static_cast<const In*>(args.x) + (args.row_indices ? args.row_indices[t] : t) * args.x_stride;
  float v[kVectors][8];
  float sum_sq = 0, amax = 0;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int group = i * blockDim.x + threadIdx.x;
    if (group >= groups) continue;
    load_8(x + group * 8, v[i]);
    if (args.norm_weight) {
      float w[8];
      load_8(args.norm_weight + group * 8, w);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        sum_sq += v[i][j] * v[i][j];
        v[i][j] *= w[j];
      }
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) amax = max_or_nan(amax, fabsf(v[i][j]));
  }
  amax = block_combine(amax, maxima, [](float a, float b) { return max_or_nan(a, b); });
  // The norm's factor is the same for the whole row, so it goes into the scale and leaves the codes alone.
  float rms = 1;
  if (args.norm_weight)
    rms = rsqrtf(block_combine(sum_sq, sums, [](float a, float b) { return a + b; }) / args.cols + args.norm_epsilon);
  const float inverse = amax > 0 ? kLargest / amax : 0;
  if (threadIdx.x == 0) scales[t] = amax * rms * (1 / kLargest);
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int group = i * blockDim.x + threadIdx.x;
    if (group >= groups) continue;
    __nv_fp8x4_e4m3 quads[2];
#pragma unroll
    for (int q = 0; q < 2; ++q)
      quads[q] = __nv_fp8x4_e4m3(make_float4(v[i][4 * q] * inverse, v[i][4 * q + 1] * inverse,
                                             v[i][4 * q + 2] * inverse, v[i][4 * q + 3] * inverse));
    *reinterpret_cast<uint2*>(codes + static_cast<int64_t>(t) * args.cols + group * 8) =
        *reinterpret_cast<const uint2*>(quads);
  }
}

template <class In>
void launch_to_e4m3(const ToBf16Args& args, uint8_t* codes, float* scales, const LaunchContext& context) {
  const int groups = args.cols / 8;
  const auto run = [&](auto kernel, int per_thread) {
    const auto threads = static_cast<unsigned>(((groups + per_thread - 1) / per_thread + 31) / 32 * 32);
    launch(context, "to_e4m3", kernel, static_cast<unsigned>(args.tokens), threads, 0, args, codes, scales);
  };
  if (groups <= 2 * 256) return run(to_e4m3_kernel<In, 2>, 2);
  if (groups <= 4 * kMaxThreads) return run(to_e4m3_kernel<In, 4>, 4);
  run(to_e4m3_kernel<In, 8>, 8);
}

}  // namespace

void to_e4m3(const ToBf16Args& args, void* codes, float* scales, const LaunchContext& context) {
  if (args.tokens == 0) return;
  const int64_t element = dtype_bytes(args.x_type);
  if (args.cols % 8 != 0 || args.cols > kE4m3MaxCols || args.x_stride * element % 16 != 0 || !aligned_16(args.x))
    fail(ErrorCode::internal, "rows of ", args.cols, " values, ", args.x_stride, " apart, cannot be read 8 at a time");
  if (args.x_type == DType::bf16)
    return launch_to_e4m3<__nv_bfloat16>(args, static_cast<uint8_t*>(codes), scales, context);
  launch_to_e4m3<float>(args, static_cast<uint8_t*>(codes), scales, context);
}

}  // namespace imp::cuda
