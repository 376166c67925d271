// y[t, c] = activation(gate[t, c] + gate_bias[c]) * (up[t, c] + up_bias[c]), gate and up in fp32, bf16 or f16, y in
// fp32 or bf16. Vector kernel: a thread takes 8 columns, 16-byte accesses; bytes moved: 6 a value with bf16 everywhere,
// 12 with fp32. The scalar kernel takes any width and alignment.
#include <cuda_bf16.h>

#include "core/error.h"
#include "device/activation.cuh"
#include "device/pdl.cuh"
#include "device/vector8.cuh"
#include "norm/elementwise.h"

namespace imp::cuda {
namespace {

constexpr int kThreads = 256;

template <class In, class Out>
__global__ __launch_bounds__(kThreads) void gated_vector_kernel(GatedArgs args) {
  pdl_trigger();
  pdl_wait();
  const int c = (blockIdx.x * kThreads + threadIdx.x) * 8;
  if (c >= args.cols) return;
  const int64_t in = blockIdx.y * args.in_stride + c;
  float g[8], u[8], bias[8];
  load_8(static_cast<const In*>(args.gate) + in, g);
  load_8(static_cast<const In*>(args.up) + in, u);
  if (args.gate_bias) {
    load_8(args.gate_bias + c, bias);
#pragma unroll
    for (int i = 0; i < 8; ++i) g[i] += bias[i];
  }
  if (args.up_bias) {
    load_8(args.up_bias + c, bias);
#pragma unroll
    for (int i = 0; i < 8; ++i) u[i] += bias[i];
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) g[i] = activate_device(args.activation, g[i]) * u[i];
  store_8(static_cast<Out*>(args.y) + blockIdx.y * args.y_stride + c, g);
}

template <class In, class Out>
__global__ __launch_bounds__(kThreads) void gated_scalar_kernel(GatedArgs args) {
  pdl_trigger();
  pdl_wait();
  const int c = blockIdx.x * kThreads + threadIdx.x;
  if (c >= args.cols) return;
  const int64_t in = blockIdx.y * args.in_stride + c;
  const float g = static_cast<float>(static_cast<const In*>(args.gate)[in]) + (args.gate_bias ? args.gate_bias[c] : 0);
  const float u = static_cast<float>(static_cast<const In*>(args.up)[in]) + (args.up_bias ? args.up_bias[c] : 0);
  static_cast<Out*>(args.y)[blockIdx.y * args.y_stride + c] = Out(activate_device(args.activation, g) * u);
}

template <class In, class Out>
void launch_gated(const GatedArgs& args, const LaunchContext& context) {
  const bool vectors = args.cols % 8 == 0 && args.in_stride * static_cast<int64_t>(sizeof(In)) % 16 == 0 &&
                       args.y_stride * static_cast<int64_t>(sizeof(Out)) % 16 == 0 && aligned_16(args.gate) &&
                       aligned_16(args.up) && aligned_16(args.y) && aligned_16(args.gate_bias) &&
                       aligned_16(args.up_bias);
  const int per_block = vectors ? 8 * kThreads : kThreads;
  const dim3 grid(static_cast<unsigned>((args.cols + per_block - 1) / per_block), static_cast<unsigned>(args.tokens));
  launch(context, "gated_activation", vectors ? gated_vector_kernel<In, Out> : gated_scalar_kernel<In, Out>, grid,
         kThreads, 0, args);
}

}  // namespace

void gated_activation(const GatedArgs& args, const LaunchContext& context) {
  if (args.tokens == 0) return;
  const bool in_bf16 = args.in_type == DType::bf16, out_bf16 = args.y_type == DType::bf16;
  if (args.in_type == DType::f16)
    return out_bf16 ? launch_gated<__half, __nv_bfloat16>(args, context) : launch_gated<__half, float>(args, context);
  if (in_bf16 && out_bf16) return launch_gated<__nv_bfloat16, __nv_bfloat16>(args, context);
  if (!in_bf16 && out_bf16) return launch_gated<float, __nv_bfloat16>(args, context);
  if (!in_bf16) return launch_gated<float, float>(args, context);
  fail(ErrorCode::internal, "a gate in bf16 with a result in fp32 has no kernel");
}

}  // namespace imp::cuda
