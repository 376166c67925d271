#include <cuda_bf16.h>

#include "device/pdl.cuh"
#include "device/quantize_block.cuh"
#include "device/reduce.cuh"
#include "linear/token_codes.h"

namespace imp::cuda {
namespace {

constexpr int kThreads = 512;

struct QuantizeArgs {
  const void* x;
  int64_t x_stride;
  const int32_t* row_indices;
  const float* norm_weight;
  float norm_epsilon;
  int cols;
  TokenCodes layout;
  uint8_t* out;
};

template <class T>
__device__ __forceinline__ float4 load4(const T* x) {
  if constexpr (sizeof(T) == 4) {
    return *reinterpret_cast<const float4*>(x);
  } else {
    const uint2 raw = *reinterpret_cast<const uint2*>(x);
    const float2 low = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&raw.x));
    const float2 high = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&raw.y));
    return make_float4(low.x, low.y, high.x, high.y);
  }
}

// Block (t, slice): a slice of token t's blocks, all of them where a norm needs the whole row. Eight lanes share a
// block of 32.
template <class T>
__global__ __launch_bounds__(kThreads) void quantize_tokens_kernel(const QuantizeArgs args) {
  pdl_trigger();
  pdl_wait();
  const int t = blockIdx.x;
  const T* x = static_cast<const T*>(args.x) + (args.row_indices ? args.row_indices[t] : t) * args.x_stride;
  float inverse_rms = 1;
  if (args.norm_weight) {
    __shared__ float partial[kThreads / 32];
    float sum_sq = 0;
    for (int c = threadIdx.x * 4; c < args.cols; c += kThreads * 4) {
      const float4 v = load4(x + c);
      sum_sq += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    }
    sum_sq = warp_sum(sum_sq);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum_sq;
    __syncthreads();
    float total = 0;
#pragma unroll
    for (float part : partial) total += part;
    inverse_rms = rsqrtf(total / args.cols + args.norm_epsilon);
  }
  const int tile_tokens = args.layout.tile_tokens, slab_blocks = args.layout.slab_blocks;
  const int code_bytes = TokenCodes::code_bytes(tile_tokens, slab_blocks);
  const int in_tile = t % tile_tokens, words = args.cols / 4;
  uint8_t* tile = args.out + static_cast<int64_t>(t / tile_tokens) * args.layout.slabs *
                                 TokenCodes::slab_bytes(tile_tokens, slab_blocks);
  // Whole warps go round, so that all lanes take part in the shuffles.
  for (int first = blockIdx.y * kThreads; first < words; first += gridDim.y * kThreads) {
    const int i = first + threadIdx.x;
    float4 v = make_float4(0, 0, 0, 0);
    if (i < words) {
      v = load4(x + i * 4);
      if (args.norm_weight) {
        const float4 w = *reinterpret_cast<const float4*>(args.norm_weight + i * 4);
        v.x *= w.x, v.y *= w.y, v.z *= w.z, v.w *= w.w;
      }
    }
    const QuantizedFour quantized(v, inverse_rms);
    const auto& q = quantized.codes;
    if (i >= words) continue;
    const int block = i / 8, word = i % 8, in_slab = block % slab_blocks;
    uint8_t* slab = tile + static_cast<int64_t>(block / slab_blocks) * TokenCodes::slab_bytes(tile_tokens, slab_blocks);
    *reinterpret_cast<uint32_t*>(slab + in_tile * (slab_blocks * 32 + 16) + in_slab * 32 + word * 4) =
        (q[0] & 255) | (q[1] & 255) << 8 | (q[2] & 255) << 16 | static_cast<uint32_t>(q[3] & 255) << 24;
    if (word == 0) {
      auto* floats = reinterpret_cast<float*>(slab + code_bytes) + in_slab * tile_tokens + in_tile;
      const int plane = slab_blocks * tile_tokens;
      floats[0] = quantized.scale;
      floats[plane] = quantized.scale * static_cast<float>(quantized.sum);
      floats[2 * plane] = quantized.scale * static_cast<float>(quantized.own_sum);
    }
  }
}

}  // namespace

void quantize_tokens(const LinearArgs& args, const TokenCodes& layout, void* out, const LaunchContext& context) {
  const int cols = static_cast<int>(args.x.cols);
  const QuantizeArgs kernel_args{args.x.data,      args.x.row_stride,         args.row_indices,
                                 args.norm_weight, args.norm_epsilon,         cols,
                                 layout,           static_cast<uint8_t*>(out)};
  const int slices = args.norm_weight ? 1 : (cols / 4 + kThreads - 1) / kThreads;
  const dim3 grid(static_cast<unsigned>(args.tokens()), static_cast<unsigned>(slices));
  const auto kernel =
      args.x.dtype == DType::bf16 ? quantize_tokens_kernel<__nv_bfloat16> : quantize_tokens_kernel<float>;
  launch(context, "quantize_tokens", kernel, grid, kThreads, 0, kernel_args);
}

}  // namespace imp::cuda
