#include <cuda_fp16.h>

#include "device/pdl.cuh"
#include "device/reduce.cuh"
#include "norm/elementwise.h"

namespace imp::cuda {
namespace {

constexpr int kThreads = 256;

__device__ float block_sum(float value) {
  __shared__ float partial[kThreads / 32];
  value = warp_sum(value);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0;
  for (float part : partial) total += part;
  return total;
}

__device__ float inverse_rms(const float* x, int cols, float epsilon) {
  float sum_sq = 0;
  for (int c = threadIdx.x; c < cols; c += kThreads) sum_sq += x[c] * x[c];
  return rsqrtf(block_sum(sum_sq) / cols + epsilon);
}

__global__ __launch_bounds__(kThreads) void rms_norm_kernel(const float* x, int64_t x_stride, const float* weight,
                                                            float epsilon, float* y, int64_t y_stride, int cols,
                                                            bool add) {
  pdl_trigger();
  pdl_wait();
  const float* row = x + blockIdx.x * x_stride;
  float* out = y + blockIdx.x * y_stride;
  const float scale = inverse_rms(row, cols, epsilon);
  for (int c = threadIdx.x; c < cols; c += kThreads) {
    const float value = row[c] * scale * weight[c];
    out[c] = add ? out[c] + value : value;
  }
}

__global__ __launch_bounds__(kThreads) void softcap_kernel(float* x, int64_t stride, int cols, float cap) {
  pdl_trigger();
  pdl_wait();
  float* row = x + blockIdx.y * stride;
  for (int c = blockIdx.x * kThreads + threadIdx.x; c < cols; c += gridDim.x * kThreads)
    row[c] = cap * tanhf(row[c] / cap);
}

__global__ __launch_bounds__(kThreads) void add_bias_kernel(float* y, int64_t stride, const float* bias, int cols) {
  pdl_trigger();
  pdl_wait();
  float* row = y + blockIdx.x * stride;
  for (int c = threadIdx.x; c < cols; c += kThreads) row[c] += bias[c];
}

__global__ __launch_bounds__(kThreads) void f16_to_rows_kernel(const __half* x, int64_t x_stride, float* y,
                                                               int64_t y_stride, int cols, bool accumulate) {
  pdl_trigger();
  pdl_wait();
  const __half* from = x + blockIdx.x * x_stride;
  float* to = y + blockIdx.x * y_stride;
  for (int c = threadIdx.x; c < cols; c += kThreads) {
    const float value = __half2float(from[c]);
    to[c] = accumulate ? to[c] + value : value;
  }
}

dim3 row_grid(int cols, int rows) {
  return dim3(static_cast<unsigned>((cols + kThreads - 1) / kThreads), static_cast<unsigned>(rows));
}

}  // namespace

void rms_norm(const RmsNormArgs& args, const LaunchContext& context) {
  if (args.x.rows == 0) return;
  const bool add = args.add_to.data != nullptr;
  const TensorView& y = add ? args.add_to : args.y;
  launch(context, "rms_norm", rms_norm_kernel, static_cast<unsigned>(args.x.rows), kThreads, 0, args.x.row<float>(0),
         args.x.row_stride, args.weight, args.epsilon, y.row<float>(0), y.row_stride, static_cast<int>(args.x.cols),
         add);
}

void softcap(const SoftcapArgs& args, const LaunchContext& context) {
  if (args.x.rows == 0) return;
  const int cols = static_cast<int>(args.x.cols);
  launch(context, "softcap", softcap_kernel, row_grid(cols, static_cast<int>(args.x.rows)), kThreads, 0,
         args.x.row<float>(0), args.x.row_stride, cols, args.cap);
}

void f16_to_rows(const void* x, int64_t x_stride, float* y, int64_t y_stride, int tokens, int cols, bool accumulate,
                 const LaunchContext& context) {
  if (tokens == 0) return;
  launch(context, "f16_to_rows", f16_to_rows_kernel, static_cast<unsigned>(tokens), kThreads, 0,
         static_cast<const __half*>(x), x_stride, y, y_stride, cols, accumulate);
}

void add_bias(float* y, int64_t y_stride, const float* bias, int tokens, int cols, const LaunchContext& context) {
  if (tokens == 0) return;
  launch(context, "add_bias", add_bias_kernel, static_cast<unsigned>(tokens), kThreads, 0, y, y_stride, bias, cols);
}

}  // namespace imp::cuda
