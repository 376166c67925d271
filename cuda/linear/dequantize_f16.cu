// A whole prepared weight as f16 rows. One thread a block of 32 weights, or one a number where the weight is floats.
#include "linear/dequantize_f16.h"
#include "linear/layout_codec.cuh"

namespace imp::cuda {
namespace {

constexpr int kThreads = 256;

template <class Codec>
__global__ __launch_bounds__(kThreads) void dequantize_f16_kernel(PackedView w, int64_t num_blocks, float scale,
                                                                  __half* out) {
  const int64_t index = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (index >= num_blocks) return;
  const int blocks_per_row = w.cols / 32;
  Codec codec;
  codec.load(w.codes, w.scales, w.supers, index / blocks_per_row, static_cast<int>(index % blocks_per_row),
             blocks_per_row);
  float values[32];
  codec.values(values);
#pragma unroll
  for (int i = 0; i < 32; i += 2)
    *reinterpret_cast<__half2*>(out + index * 32 + i) = __floats2half2_rn(values[i] * scale, values[i + 1] * scale);
}

template <class Number>
__global__ __launch_bounds__(kThreads) void to_f16_kernel(const Number* in, int64_t count, __half* out) {
  const int64_t index = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (index < count) out[index] = __float2half(static_cast<float>(in[index]));
}

constexpr const char* kName = "dequant_lm_head";

unsigned grid_of(int64_t total) { return static_cast<unsigned>((total + kThreads - 1) / kThreads); }

template <class Codec>
void run(const WeightView& weight, __half* out, const LaunchContext& context) {
  const int64_t blocks = weight.rows * weight.cols / 32;
  launch(context, kName, dequantize_f16_kernel<Codec>, grid_of(blocks), kThreads, 0, packed_view(weight), blocks,
         weight.scale, out);
}

template <class Number>
void convert(const WeightView& weight, __half* out, const LaunchContext& context) {
  const int64_t count = weight.rows * weight.cols;
  launch(context, kName, to_f16_kernel<Number>, grid_of(count), kThreads, 0, static_cast<const Number*>(weight.data),
         count, out);
}

}  // namespace

void dequantize_f16(const WeightView& weight, void* out, const LaunchContext& context) {
  auto* to = static_cast<__half*>(out);
  const auto layout = static_cast<PackedLayout>(weight.layout);
  if (layout == PackedLayout::kRows)
    return with_number(weight.format, [&](auto number) { convert<decltype(number)>(weight, to, context); });
  with_codec(layout, [&](auto codec) { run<decltype(codec)>(weight, to, context); });
}

}  // namespace imp::cuda
