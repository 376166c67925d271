// The linears of a decode step, layer after layer in one CUDA graph, attention left out, and the output head alone: how
// close the GEMVs come to the card's read bandwidth. Weights are random bits of harmless size; tests/cuda checks
// results.
//   gemv_cuda [TOKENS [MODEL [FORMATS]]]     MODEL: 8B, 1B, 0.6B     FORMATS: Q4_0,IQ4_XS,...
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "backend/device_memory.h"
#include "core/text.h"
#include "linear/gemv.h"
#include "quant/format.h"
#include "runtime/launch.h"
#include "runtime/read_bandwidth.h"

using namespace imp;
using namespace imp::cuda;

namespace {

/// words[i] = hash of i, masked.
__global__ void fill(uint32_t* words, size_t count, uint32_t mask, uint32_t set) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count; i += size_t{gridDim.x} * blockDim.x) {
    uint64_t h = (i + 1) * 0x9E3779B97F4A7C15ull;
    h = (h ^ h >> 29) * 0xBF58476D1CE4E5B9ull;
    words[i] = (static_cast<uint32_t>(h >> 32) & mask) | set;
  }
}

struct Model {
  const char* name;
  int hidden, q_rows, kv_rows, inner, layers;  // as many layers as exceed the L2 cache by far
};
constexpr Model kModels[] = {
    {"8B", 4096, 4096, 1024, 12288, 12}, {"1B", 2048, 2048, 512, 8192, 16}, {"0.6B", 1024, 2048, 1024, 3072, 28}};

class Weights {
 public:
  PackedView make(WeightFormat format, int rows, int cols) {
    const PackedLayout layout = packed_layout_of(format);
    const PackedSizes sizes = packed_sizes(layout, format, rows, cols);
    auto* at = static_cast<uint8_t*>(memory_.emplace_back(static_cast<size_t>(sizes.total())).data());
    bytes += static_cast<size_t>(sizes.codes_bytes + sizes.scales_bytes + sizes.supers_bytes);
    uint8_t* scales = at + PackedSizes::align(sizes.codes_bytes);
    uint8_t* supers = scales + PackedSizes::align(sizes.scales_bytes);
    auto put = [](uint8_t* to, int64_t count, uint32_t mask, uint32_t set) {
      if (count > 0) fill<<<1024, 256>>>(reinterpret_cast<uint32_t*>(to), static_cast<size_t>(count / 4), mask, set);
    };
    const bool rows_of_floats = layout == PackedLayout::kRows;
    put(at, sizes.codes_bytes, rows_of_floats ? 0x807f807f : ~0u, rows_of_floats ? 0x3c003c00 : 0);
    const bool bytes_as_scales = layout == PackedLayout::kQ4K || layout == PackedLayout::kQ6K ||
                                 layout == PackedLayout::kIQ4XS || layout == PackedLayout::kNVFP4 ||
                                 layout == PackedLayout::kQ5K || layout == PackedLayout::kQ3K ||
                                 layout == PackedLayout::kQ2K;
    if (layout == PackedLayout::kMXFP4) {
      put(scales, sizes.scales_bytes, 0x03030303, 0x78787878);
    } else {
      put(scales, sizes.scales_bytes, bytes_as_scales ? 0x3f3f3f3f : 0x07ff07ff, bytes_as_scales ? 0 : 0x10001000);
    }
    put(supers, sizes.supers_bytes, 0x07ff07ff, 0x10001000);
    check(cudaDeviceSynchronize(), "filling a weight");
    return {at, scales, supers, rows, cols};
  }
  size_t bytes = 0;

 private:
  std::vector<DeviceMemory> memory_;
};

struct Layer {
  PackedView q, k, v, o, gate, up, down;
};

class Bench {
 public:
  Bench(const LaunchContext& context, double bandwidth, int tokens)
      : context_(context), bandwidth_(bandwidth), tokens_(tokens) {
    for (float** p : {&x_, &norm_, &y_, &z_}) {
      memory_.emplace_back(size_t{8} * kStride * sizeof(float));
      *p = static_cast<float*>(memory_.back().data());
      fill<<<64, 256>>>(reinterpret_cast<uint32_t*>(*p), size_t{8} * kStride, 0x807fffff, 0x3c000000);
    }
  }

  /// `v_format`: of the v projections, for files that mix.
  void chain(const Model& m, const char* name, WeightFormat format, WeightFormat v_format) {
    Weights weights;
    std::vector<Layer> layers;
    for (int i = 0; i < m.layers; ++i)
      layers.push_back({weights.make(format, m.q_rows, m.hidden), weights.make(format, m.kv_rows, m.hidden),
                        weights.make(v_format, m.kv_rows, m.hidden), weights.make(format, m.hidden, m.q_rows),
                        weights.make(format, m.inner, m.hidden), weights.make(format, m.inner, m.hidden),
                        weights.make(format, m.hidden, m.inner)});
    const double seconds = time([&] {
      for (const Layer& l : layers) {
        linear({{l.q, format, y_}, {l.k, format, y_ + m.q_rows}, {l.v, v_format, y_ + m.q_rows + m.kv_rows}}, x_, norm_,
               false, false);
        linear({{l.o, format, x_}}, y_, nullptr, true, false);
        linear({{l.gate, format, z_}, {l.up, format, z_}}, x_, norm_, false, true);
        linear({{l.down, format, x_}}, z_, nullptr, true, false);
      }
    });
    print(m.name, name, "us a layer", seconds / m.layers, static_cast<double>(weights.bytes) / m.layers);
  }

  void head(const Model& m, WeightFormat format) {
    Weights weights;
    const PackedView w = weights.make(format, 151936, m.hidden);
    DeviceMemory logits(size_t{8} * 151936 * sizeof(float));
    const double seconds = time([&] {
      for (int i = 0; i < 4; ++i)
        linear({{w, format, static_cast<float*>(logits.data())}}, x_, norm_, false, false, 151936);
    });
    print(m.name, info(format).name.data(), "us a head", seconds / 4, static_cast<double>(weights.bytes));
  }

 private:
  static constexpr int64_t kStride = 24576;
  struct Output {
    PackedView weight;
    WeightFormat format;
    float* y;
  };

  void linear(const std::vector<Output>& outputs, const float* x, const float* norm, bool accumulate, bool gated,
              int64_t y_stride = kStride) {
    GemvArgs args = {};
    args.x = x, args.x_stride = kStride, args.norm_weight = norm, args.norm_epsilon = 1e-6f, args.tokens = tokens_;
    args.accumulate = accumulate, args.gated = gated, args.activation = Activation::silu;
    args.after_other = accumulate && x == y_;  // o_proj, as the backend has it
    PackedLayout layouts[3] = {};
    for (const Output& output : outputs) {
      layouts[args.num_outputs] = packed_layout_of(output.format);
      args.outputs[args.num_outputs++] = {output.weight, nullptr, output.y, y_stride, 1.0f};
    }
    if (layouts[0] == PackedLayout::kRows) return gemv_rows(outputs[0].format, args, context_);
    gemv_dp4a(layouts, args, context_);
  }

  /// The median of 20 replays.
  template <class Work>
  double time(Work work) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    check(cudaStreamBeginCapture(context_.stream, cudaStreamCaptureModeRelaxed), "capturing");
    work();
    check(cudaStreamEndCapture(context_.stream, &graph), "capturing");
    check(cudaGraphInstantiate(&exec, graph, 0), "capturing");
    cudaEvent_t begin, end;
    check(cudaEventCreate(&begin), "cudaEventCreate");
    check(cudaEventCreate(&end), "cudaEventCreate");
    std::vector<float> times;
    for (int i = 0; i < 25; ++i) {
      float ms;
      check(cudaEventRecord(begin, context_.stream), "timing");
      check(cudaGraphLaunch(exec, context_.stream), "timing");
      check(cudaEventRecord(end, context_.stream), "timing");
      check(cudaEventSynchronize(end), "timing");
      check(cudaEventElapsedTime(&ms, begin, end), "timing");
      if (i >= 5) times.push_back(ms);
    }
    check(cudaEventDestroy(begin), "timing");
    check(cudaEventDestroy(end), "timing");
    check(cudaGraphExecDestroy(exec), "timing");
    check(cudaGraphDestroy(graph), "timing");
    std::nth_element(times.begin(), times.begin() + 10, times.end());
    return times[10] / 1000;
  }

  void print(const char* model, const char* format, const char* unit, double seconds, double bytes) {
    std::printf("%-5s %-12s m=%d %8.2f %s %6.0f GB/s %5.1f %% of what the card reads\n", model, format, tokens_,
                seconds * 1e6, unit, bytes / seconds / 1e9, bytes / seconds / bandwidth_ * 100);
    std::fflush(stdout);
  }

  LaunchContext context_;
  double bandwidth_;
  int tokens_;
  std::vector<DeviceMemory> memory_;
  float *x_, *norm_, *y_, *z_;
};

}  // namespace

int main(int argc, char** argv) {
  const int tokens = argc > 1 ? std::clamp(std::atoi(argv[1]), 1, kGemvMaxTokens) : 1;
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  LaunchContext context;
  check(cudaStreamCreate(&context.stream), "cudaStreamCreate");
  context.num_sms = properties.multiProcessorCount;
  context.max_shared_bytes = static_cast<int>(properties.sharedMemPerBlockOptin);
  context.pdl = properties.major >= 9;
  const double bandwidth = measure_read_bandwidth();
  std::printf("%s, %d SMs, reads %.0f GB/s\n", properties.name, context.num_sms, bandwidth / 1e9);
  Bench bench(context, bandwidth, tokens);
  using F = WeightFormat;
  if (argc > 3) {
    const std::string formats = cat(",", argv[3], ",");
    for (const Model& model : kModels)
      for (const FormatInfo& format : all_formats())
        if (std::string(argv[2]) == model.name && formats.find(cat(",", format.name, ",")) != formats.npos)
          bench.chain(model, format.name.data(), format.format, format.format);
    return 0;
  }
  for (const Model& model : kModels) {
    if (argc > 2 && std::string(argv[2]) != model.name) continue;
    for (F format : {F::q8_0, F::q6_k, F::q4_k, F::q4_0, F::q4_1, F::iq4_nl, F::iq4_xs, F::mxfp4, F::nvfp4, F::q5_k,
                     F::q5_0, F::q5_1, F::q3_k, F::q2_k, F::bf16})
      bench.chain(model, info(format).name.data(), format, format);
    bench.chain(model, "Q4_K, v Q6_K", F::q4_k, F::q6_k);
    bench.chain(model, "Q5_K, v Q6_K", F::q5_k, F::q6_k);
  }
  for (F format : {F::q8_0, F::q6_k, F::q4_k, F::bf16}) bench.head(kModels[0], format);
}
