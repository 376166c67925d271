// Rows of the embedding table, packed or not, in fp32.
#include "device/pdl.cuh"
#include "linear/dequantize.h"
#include "linear/layout_codec.cuh"

namespace imp::cuda {
namespace {

constexpr int kThreads = 256;

/// EmbedArgs::id, for the device.
__device__ int64_t token_of(const int32_t* ids, const int32_t* drawn) {
  const int32_t id = ids[blockIdx.x];
  return id < 0 ? drawn[-1 - id] : id;
}

template <class Codec>
__global__ __launch_bounds__(kThreads) void embed_packed_kernel(PackedView w, const int32_t* ids, const int32_t* drawn,
                                                                float scale, float* out, int64_t out_stride) {
  pdl_trigger();
  pdl_wait();
  const int blocks_per_row = w.cols / 32;
  const int64_t row = token_of(ids, drawn);
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
                                                              const int32_t* ids, const int32_t* drawn, float scale,
                                                              float* out, int64_t out_stride) {
  pdl_trigger();
  pdl_wait();
  const int64_t row = token_of(ids, drawn);
  for (int c = threadIdx.x; c < cols; c += kThreads)
    out[blockIdx.x * out_stride + c] = number_at(table, format, row * cols + c) * scale;
}

}  // namespace

void embed_rows(const EmbedArgs& args, const LaunchContext& context) {
  if (args.out.rows == 0) return;
  const auto layout = static_cast<PackedLayout>(args.table.layout);
  const auto grid = static_cast<unsigned>(args.out.rows);
  float* out = args.out.row<float>(0);
  if (layout == PackedLayout::kRows) {
    launch(context, "embed_rows", embed_rows_kernel, grid, kThreads, 0, args.table.data, args.table.format,
           static_cast<int>(args.table.cols), args.ids, args.drawn, args.scale, out, args.out.row_stride);
    return;
  }
  with_codec(layout, [&](auto codec) {
    launch(context, "embed_packed", embed_packed_kernel<decltype(codec)>, grid, kThreads, 0, packed_view(args.table),
           args.ids, args.drawn, args.scale * args.table.scale, out, args.out.row_stride);
  });
}

}  // namespace imp::cuda
