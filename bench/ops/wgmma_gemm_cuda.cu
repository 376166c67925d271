// Prefill products of an 8B model: gemm_wgmma() with tiles of 128 and 256 tokens beside dequantize_bf16() and cuBLASLt,
// and cuBLASLt on bf16 weights alone. Also that both give the same numbers at these sizes.
//   wgmma_gemm_cuda [tokens ...]
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "linear/dequantize.h"
#include "linear/gemm_wgmma.h"
#include "quant/format.h"
#include "runtime/cublaslt.h"

using namespace imp;
using namespace imp::cuda;

namespace {

void* device_alloc(size_t bytes) {
  void* p;
  check(cudaMalloc(&p, bytes), "cudaMalloc");
  check(cudaMemset(p, 0xff, bytes), "cudaMemset");
  return p;
}

__device__ uint32_t hash(uint32_t v) {
  v ^= v >> 16, v *= 0x7feb352du, v ^= v >> 15, v *= 0x846ca68bu;
  return v ^ (v >> 16);
}
__global__ void fill_words(uint32_t* out, int64_t words, uint32_t mask, uint32_t base, uint32_t seed) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < words; i += int64_t{gridDim.x} * blockDim.x)
    out[i] = (hash(static_cast<uint32_t>(i) + seed) & mask) + base;
}
/// Normal enough: the sum of four uniform numbers; one in 97 is 30 times larger.
__global__ void fill_x(__nv_bfloat16* out, int64_t count) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    const uint32_t h = hash(static_cast<uint32_t>(i) ^ 0x5bd1e995u);
    const float v = ((h & 255) + (h >> 8 & 255) + (h >> 16 & 255) + (h >> 24)) / 148.0f - 3.446f;
    out[i] = __float2bfloat16(v * (hash(h) % 97 == 0 ? 30.0f : 1.0f));
  }
}

WeightView make_weight(WeightFormat format, int64_t rows, int64_t cols, uint32_t seed) {
  const PackedLayout layout = packed_layout_of(format);
  const PackedSizes sizes = packed_sizes(layout, format, rows, cols);
  auto* data = static_cast<uint8_t*>(device_alloc(sizes.total()));
  auto fill = [&](int64_t at, int64_t bytes, uint32_t mask, uint32_t base) {
    if (bytes) fill_words<<<1024, 256>>>(reinterpret_cast<uint32_t*>(data + at), bytes / 4, mask, base, seed);
  };
  const int64_t scales = PackedSizes::align(sizes.codes_bytes),
                supers = scales + PackedSizes::align(sizes.scales_bytes);
  fill(0, sizes.codes_bytes, ~0u, 0);
  if (layout == PackedLayout::kQ8) fill(scales, sizes.scales_bytes, 0x03ff03ffu, 0x0c000c00u);
  if (layout == PackedLayout::kQ4K)
    fill(scales, sizes.scales_bytes, 0x3f3f3f3fu, 0), fill(supers, sizes.supers_bytes, 0x03ff03ffu, 0x10000c00u);
  if (layout == PackedLayout::kQ6K)
    fill(scales, sizes.scales_bytes, ~0u, 0), fill(supers, sizes.supers_bytes, 0x000003ffu, 0x00000400u);
  return {data, format, rows, cols, static_cast<int>(layout), nullptr, 1.0f};
}

LaunchContext context;

double median_ms(int repeats, const std::function<void(int)>& run) {
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int r = -2; r < repeats; ++r) {
    check(cudaEventRecord(begin, context.stream), "event");
    run(r + 2);
    check(cudaEventRecord(end, context.stream), "event");
    check(cudaEventSynchronize(end), "event");
    float ms;
    check(cudaEventElapsedTime(&ms, begin, end), "event");
    if (r >= 0) times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

/// |a - b| / |a|, Euclidean, over at most 4 million elements; NaN where b has one.
double distance(const float* a, const float* b, int64_t count) {
  count = std::min<int64_t>(count, 4 << 20);
  std::vector<float> x(count), y(count);
  check(cudaMemcpy(x.data(), a, count * 4, cudaMemcpyDeviceToHost), "copy");
  check(cudaMemcpy(y.data(), b, count * 4, cudaMemcpyDeviceToHost), "copy");
  double error = 0, norm = 0;
  for (int64_t i = 0; i < count; ++i) error += std::pow(double(x[i]) - y[i], 2), norm += double(x[i]) * x[i];
  return std::sqrt(error / norm);
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<int> token_counts;
  for (int i = 1; i < argc; ++i) token_counts.push_back(atoi(argv[i]));
  if (token_counts.empty()) token_counts = {128, 512, 2048, 4096};
  cudaDeviceProp prop;
  check(cudaGetDeviceProperties(&prop, 0), "device");
  check(cudaStreamCreate(&context.stream), "stream");
  context.num_sms = prop.multiProcessorCount;
  CublasLt cublaslt;
  cublaslt.open(device_alloc(64 << 20), 64 << 20, {});
  const int max_tokens = *std::max_element(token_counts.begin(), token_counts.end());
  const int64_t max_rows = 24576, max_cols = 12288;
  auto* x = static_cast<__nv_bfloat16*>(device_alloc(max_tokens * max_cols * 2));
  fill_x<<<1024, 256>>>(x, max_tokens * max_cols);
  auto* y = static_cast<float*>(device_alloc(max_tokens * max_rows * 4));
  auto* expected = static_cast<float*>(device_alloc(max_tokens * max_rows * 4));
  void* scratch = device_alloc(max_rows * max_cols * 2);
  auto* partial = static_cast<float*>(device_alloc(fused_partial_floats(context.num_sms) * 4));
  auto* flags = static_cast<int32_t*>(device_alloc(context.num_sms * 4));
  check(cudaMemset(flags, 0, context.num_sms * 4), "memset");
  std::printf("%s; TFLOP/s (us)\n%-5s %12s %5s | %13s | %13s | %13s | %13s | %13s | distance 128, 256\n", prop.name, "",
              "rows x k", "m", "cublas bf16", "dequant+blas", "wgmma 128", "wgmma 256", "gated 256");
  for (WeightFormat format : {WeightFormat::q8_0, WeightFormat::q4_k, WeightFormat::q6_k}) {
    for (const auto& [rows, k] :
         {std::pair<int64_t, int64_t>{6144, 4096}, {4096, 4096}, {24576, 4096}, {4096, 12288}}) {
      // More weights than the L2 holds, used in turn.
      std::vector<WeightView> weights;
      int64_t bytes = 0;
      for (uint32_t i = 0; i < 2 || bytes < (int64_t{160} << 20); ++i) {
        weights.push_back(make_weight(format, rows, k, i * 77));
        bytes += packed_sizes(packed_layout_of(format), format, rows, k).total();
      }
      check(cudaDeviceSynchronize(), "fill");
      const auto layout = packed_layout_of(format);
      for (int m : token_counts) {
        const double flop = 2.0 * m * rows * k;
        auto print = [&](double ms) { std::printf(" | %5.0f %7.1f", flop / ms / 1e9, ms * 1000); };
        auto weight = [&](int i) -> const WeightView& { return weights[i % weights.size()]; };
        const int repeats = 8;
        std::printf("%-5s %6lldx%-5lld %5d", info(format).name.data(), static_cast<long long>(rows),
                    static_cast<long long>(k), m);
        auto multiply = [&](float* to) {
          cublaslt.gemm({.a = x, .w = scratch, .y = to, .m = m, .n = rows, .k = k, .y_stride = rows}, context.stream);
        };
        dequantize_bf16(weights[0], 0, rows, scratch, context);
        print(median_ms(repeats, [&](int) { multiply(expected); }));
        print(median_ms(repeats, [&](int i) {
          dequantize_bf16(weight(i), 0, rows, scratch, context);
          multiply(y);
        }));
        auto wgmma = [&](const WeightView& w, int tile, bool gated) {
          FusedGemmArgs args = {};
          args.x = x, args.x_stride = k, args.tokens = m;
          args.num_outputs = gated ? 2 : 1;
          const PackedView view = packed_view(w);
          args.outputs[0] = {view, nullptr, y, rows, 1.0f};
          if (gated) {
            args.outputs[0].weight.rows = static_cast<int>(rows / 2), args.outputs[0].y_stride = rows / 2;
            args.outputs[1] = args.outputs[0];
          }
          args.gated = args.bf16_out = gated;
          args.partial = partial, args.flags = flags;
          gemm_wgmma(layout, args, context, tile);
        };
        double error[2];
        for (int tile : {128, 256}) {
          check(cudaMemset(y, 0xff, m * rows * 4), "memset");
          wgmma(weights[0], tile, false);
          check(cudaStreamSynchronize(context.stream), "gemm_wgmma");
          error[tile == 256] = distance(expected, y, m * rows);
          print(median_ms(repeats, [&](int i) { wgmma(weight(i), tile, false); }));
        }
        print(median_ms(repeats, [&](int i) { wgmma(weight(i), 256, true); }));
        std::printf(" | %.1e %.1e\n", error[0], error[1]);
        std::fflush(stdout);
      }
      for (WeightView& w : weights) check(cudaFree(const_cast<void*>(w.data)), "free");
    }
  }
}
