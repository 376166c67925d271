// Packed weights back to numbers: a scratch for prefill GEMMs (bf16), and rows of the embedding table (fp32).
#include <cuda_bf16.h>

#include "core/error.h"
#include "device/packed_codecs.cuh"
#include "device/pdl.cuh"
#include "linear/dequantize.h"

namespace imp::cuda {
namespace {

constexpr int kThreads = 256;

// One thread a block of 32 weights.
template <class Codec>
__global__ __launch_bounds__(kThreads) void dequantize_bf16_kernel(PackedView w, int64_t first_row, int64_t total,
                                                                   __nv_bfloat16* out, float scale) {
  pdl_trigger();
  pdl_wait();
  const int64_t index = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (index >= total) return;
  const int blocks_per_row = w.cols / 32;
  Codec codec;
  codec.load(w.codes, w.scales, w.supers, first_row + index / blocks_per_row, static_cast<int>(index % blocks_per_row),
             blocks_per_row);
  float values[32];
  codec.values(values);
  auto* to = reinterpret_cast<uint4*>(out + index * 32);
#pragma unroll
  for (int part = 0; part < 4; ++part) {
    __nv_bfloat162 pairs[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      pairs[i] = __floats2bfloat162_rn(values[part * 8 + i * 2] * scale, values[part * 8 + i * 2 + 1] * scale);
    to[part] = *reinterpret_cast<const uint4*>(pairs);
  }
}

template <class Codec>
__global__ __launch_bounds__(kThreads) void embed_packed_kernel(PackedView w, const int32_t* ids, float scale,
                                                                float* out, int64_t out_stride) {
  pdl_trigger();
  pdl_wait();
  const int blocks_per_row = w.cols / 32;
  const int64_t row = ids[blockIdx.x];
  for (int block = threadIdx.x; block < blocks_per_row; block += kThreads) {
    Codec codec;
    codec.load(w.codes, w.scales, w.supers, row, block, blocks_per_row);
    float values[32];
    codec.values(values);
    float* to = out + blockIdx.x * out_stride + block * 32;
#pragma unroll
    for (int i = 0; i < 32; ++i) to[i] = values[i] * scale;
  }
}

__device__ float number_at(const void* data, WeightFormat format, int64_t index) {
  if (format == WeightFormat::f32) return static_cast<const float*>(data)[index];
  if (format == WeightFormat::f16) return __half2float(static_cast<const __half*>(data)[index]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[index]);
}

__global__ __launch_bounds__(kThreads) void embed_rows_kernel(const void* table, WeightFormat format, int cols,
                                                              const int32_t* ids, float scale, float* out,
                                                              int64_t out_stride) {
  pdl_trigger();
  pdl_wait();
  const int64_t row = ids[blockIdx.x];
  for (int c = threadIdx.x; c < cols; c += kThreads)
    out[blockIdx.x * out_stride + c] = number_at(table, format, row * cols + c) * scale;
}

__global__ __launch_bounds__(kThreads) void rows_to_bf16_kernel(const void* data, WeightFormat format, int64_t first,
                                                                int64_t total, __nv_bfloat16* out) {
  pdl_trigger();
  pdl_wait();
  const int64_t index = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (index < total) out[index] = __float2bfloat16(number_at(data, format, first + index));
}

unsigned grid_of(int64_t total) { return static_cast<unsigned>((total + kThreads - 1) / kThreads); }

/// Calls `use` with the codec of a packed layout.
template <class Use>
void with_codec(PackedLayout layout, const Use& use) {
  switch (layout) {
    case PackedLayout::kQ8: return use(CodecQ8{});
    case PackedLayout::kQ4K: return use(CodecQ4K{});
    case PackedLayout::kQ6K: return use(CodecQ6K{});
    case PackedLayout::kGroups: return use(CodecGroups{});
    case PackedLayout::kRows: break;
  }
  fail(ErrorCode::internal, "this layout has no codec");
}

}  // namespace

void dequantize_bf16(const WeightView& weight, int64_t first_row, int64_t rows, void* out,
                     const LaunchContext& context) {
  if (rows == 0) return;
  const auto layout = static_cast<PackedLayout>(weight.layout);
  auto* to = static_cast<__nv_bfloat16*>(out);
  if (layout == PackedLayout::kRows) {
    const int64_t total = rows * weight.cols;
    launch(context, "rows_to_bf16", rows_to_bf16_kernel, grid_of(total), kThreads, 0, weight.data, weight.format,
           first_row * weight.cols, total, to);
    return;
  }
  const int64_t total = rows * (weight.cols / 32);
  with_codec(layout, [&](auto codec) {
    launch(context, "dequantize_bf16", dequantize_bf16_kernel<decltype(codec)>, grid_of(total), kThreads, 0,
           packed_view(weight), first_row, total, to, weight.scale);
  });
}

void embed_rows(const EmbedRowsArgs& args, const LaunchContext& context) {
  if (args.tokens == 0) return;
  const auto layout = static_cast<PackedLayout>(args.table.layout);
  const auto grid = static_cast<unsigned>(args.tokens);
  if (layout == PackedLayout::kRows) {
    launch(context, "embed_rows", embed_rows_kernel, grid, kThreads, 0, args.table.data, args.table.format,
           static_cast<int>(args.table.cols), args.ids, args.scale, args.out, args.out_stride);
    return;
  }
  with_codec(layout, [&](auto codec) {
    launch(context, "embed_packed", embed_packed_kernel<decltype(codec)>, grid, kThreads, 0, packed_view(args.table),
           args.ids, args.scale * args.table.scale, args.out, args.out_stride);
  });
}

}  // namespace imp::cuda
