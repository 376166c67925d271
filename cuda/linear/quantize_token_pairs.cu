#include "device/pdl.cuh"
#include "device/quantize_block.cuh"
#include "device/reduce.cuh"
#include "linear/token_pairs.h"

namespace imp::cuda {
namespace {

constexpr int kThreads = 512, kHeld = 2;  // float4s of a thread that stay in registers

struct PairArgs {
  const float* x;
  int64_t x_stride;
  const int32_t* row_indices;
  const float* norm_weight;
  float norm_epsilon;
  int cols, tiles, planes;
  uint8_t* out;
};

/// Eight lanes share a block of 32; i counts float4s of the token.
__device__ __forceinline__ void store_codes(const PairArgs& args, int token, int i, const float4& v, float by) {
  const QuantizedFour quantized(v, by);
  const auto& q = quantized.codes;
  const int block = i / 8, word = i % 8, column = token % 8;
  uint8_t* pair = args.out + (block / 2 * args.tiles + token / 8) * (512 + 64 * args.planes);
  *reinterpret_cast<uint32_t*>(pair + (column * 4 + word % 4) * 16 + block % 2 * 8 + word / 4 * 4) =
      __byte_perm(__byte_perm(q[0], q[1], 0x0040), __byte_perm(q[2], q[3], 0x0040), 0x5410);
  if (word != 0) return;
  auto* floats = reinterpret_cast<float*>(pair + 512) + column / 2 * 4 + block % 2 * 2 + column % 2;
  floats[0] = quantized.scale;
  if (args.planes > 1) floats[16] = quantized.scale * static_cast<float>(quantized.sum);
  if (args.planes > 2) floats[32] = quantized.scale * static_cast<float>(quantized.own_sum);
}

// Block (t, slice): kThreads float4s of token t, or with a norm all of them.
__global__ __launch_bounds__(kThreads, 3) void quantize_token_pairs_kernel(const __grid_constant__ PairArgs args) {
  const int t = blockIdx.x, quads = args.cols / 4;
  pdl_trigger();
  float4 held[kHeld], norm[kHeld];
  if (args.norm_weight) {
#pragma unroll
    for (int r = 0; r < kHeld; ++r) {
      const int i = r * kThreads + threadIdx.x;
      if (i < quads) norm[r] = *reinterpret_cast<const float4*>(args.norm_weight + i * 4);
    }
  }
  pdl_wait();
  const float* x = args.x + (args.row_indices ? args.row_indices[t] : t) * args.x_stride;
  const auto load = [&](int i) { return *reinterpret_cast<const float4*>(x + i * 4); };
  if (!args.norm_weight) {
    // Columns are a multiple of 256, so that whole warps go in.
    const int i = blockIdx.y * kThreads + threadIdx.x;
    if (i < quads) store_codes(args, t, i, load(i), 1);
    return;
  }
  __shared__ float partial[kThreads / 32];
  float sum_sq = 0;
  const auto add = [&](const float4& v) { sum_sq += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w; };
#pragma unroll
  for (int r = 0; r < kHeld; ++r) {
    const int i = r * kThreads + threadIdx.x;
    if (i < quads) held[r] = load(i), add(held[r]);
  }
  for (int i = kHeld * kThreads + threadIdx.x; i < quads; i += kThreads) add(load(i));
  sum_sq = warp_sum(sum_sq);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum_sq;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (float part : partial) total += part;
  const float inverse_rms = rsqrtf(total / args.cols + args.norm_epsilon);
  const auto store = [&](int i, float4 v, const float4& w) {
    v.x *= w.x, v.y *= w.y, v.z *= w.z, v.w *= w.w;
    store_codes(args, t, i, v, inverse_rms);
  };
#pragma unroll
  for (int r = 0; r < kHeld; ++r)
    if (r * kThreads + static_cast<int>(threadIdx.x) < quads) store(r * kThreads + threadIdx.x, held[r], norm[r]);
  for (int i = kHeld * kThreads + threadIdx.x; i < quads; i += kThreads)
    store(i, load(i), *reinterpret_cast<const float4*>(args.norm_weight + i * 4));
}

}  // namespace

void quantize_token_pairs(const LinearArgs& args, int tiles, int planes, void* out, const LaunchContext& context) {
  const int cols = static_cast<int>(args.x.cols);
  const PairArgs kernel_args{args.x.row<float>(0),
                             args.x.row_stride,
                             args.row_indices,
                             args.norm_weight,
                             args.norm_epsilon,
                             cols,
                             tiles,
                             planes,
                             static_cast<uint8_t*>(out)};
  const int slices = args.norm_weight ? 1 : (cols / 4 + kThreads - 1) / kThreads;
  const dim3 grid(static_cast<unsigned>(args.tokens()), static_cast<unsigned>(slices));
  launch(context, "quantize_tokens", quantize_token_pairs_kernel, grid, kThreads, 0, kernel_args);
}

}  // namespace imp::cuda
