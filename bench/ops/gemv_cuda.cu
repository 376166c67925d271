// The linears of a decode step of a dense model, layer after layer in one CUDA graph, attention left out: how close the
// GEMV comes to the read bandwidth, and that its results are right.
//   gemv_cuda [layers]
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "linear/gemv.h"
#include "linear/pack_weight.h"
#include "quant/format.h"

using namespace imp;
using namespace imp::cuda;

namespace {

void* device_alloc(size_t bytes) {
  void* p;
  check(cudaMalloc(&p, bytes), "cudaMalloc");
  check(cudaMemset(p, 0xff, bytes), "cudaMemset");
  return p;
}

std::vector<uint8_t> random_blocks(WeightFormat format, int64_t rows, int64_t cols, std::mt19937& rng) {
  const FormatInfo& f = info(format);
  std::vector<uint8_t> bytes(static_cast<size_t>(row_bytes(format, cols) * rows));
  for (size_t i = 0; i + 4 <= bytes.size(); i += 4) {
    const uint32_t word = rng();
    std::memcpy(&bytes[i], &word, 4);
  }
  auto half = [](float v) {
    const __half h = __float2half(v);
    uint16_t bits;
    std::memcpy(&bits, &h, 2);
    return bits;
  };
  for (size_t b = 0; b + f.block_bytes <= bytes.size(); b += f.block_bytes) {
    uint8_t* p = &bytes[b];
    const uint16_t d = half(0.0004f * (1 + (rng() % 100) / 100.0f)), m = half(0.0003f);
    if (format == WeightFormat::q6_k) {
      const uint16_t small = half(0.00002f);
      std::memcpy(p + 208, &small, 2);
    } else if (format == WeightFormat::bf16 || format == WeightFormat::f16 || format == WeightFormat::f32) {
    } else {
      std::memcpy(p, &d, 2);
      if (format == WeightFormat::q4_k || format == WeightFormat::q4_1) std::memcpy(p + 2, &m, 2);
    }
  }
  return bytes;
}

struct Weight {
  WeightView view;
  std::vector<uint8_t> host;
};

Weight make(WeightFormat format, int64_t rows, int64_t cols, std::mt19937& rng, const LaunchContext& context,
            void* staging, bool keep) {
  Weight w;
  w.host = random_blocks(format, rows, cols, rng);
  const PackedLayout layout = packed_layout_of(format);
  void* packed = device_alloc(packed_sizes(layout, format, rows, cols).total());
  check(cudaMemcpy(staging, w.host.data(), w.host.size(), cudaMemcpyHostToDevice), "copy");
  pack_weight(format, staging, 0, rows, rows, cols, packed, context);
  check(cudaStreamSynchronize(context.stream), "pack");
  w.view = {packed, format, rows, cols, static_cast<int>(layout), nullptr, 1.0f};
  if (!keep) w.host.clear();
  return w;
}

double max_error(const Weight& w, const std::vector<float>& x, const std::vector<float>& y, int rows_checked) {
  std::vector<float> row(w.view.cols);
  double worst = 0;
  for (int i = 0; i < rows_checked; ++i) {
    const int64_t r = i * (w.view.rows - 1) / std::max(1, rows_checked - 1);
    dequantize(w.view.format, w.host.data() + r * row_bytes(w.view.format, w.view.cols), row.data(), w.view.cols);
    double sum = 0, scale = 0;
    for (int64_t c = 0; c < w.view.cols; ++c)
      sum += double(row[c]) * x[c], scale += double(row[c]) * row[c] * x[c] * x[c];
    worst = std::max(worst, std::abs(sum - y[r]) / (std::sqrt(scale) + 1e-9));
  }
  return worst;
}

}  // namespace

int main(int argc, char** argv) {
  const int layers = argc > 1 ? atoi(argv[1]) : 12;
  cudaDeviceProp prop;
  check(cudaGetDeviceProperties(&prop, 0), "device");
  LaunchContext context;
  check(cudaStreamCreate(&context.stream), "stream");
  context.num_sms = prop.multiProcessorCount;
  std::printf("%s, %d SMs\n", prop.name, context.num_sms);
  std::mt19937 rng(1);
  void* staging = device_alloc(size_t{512} << 20);
  const int hidden = 4096, inner = 12288, qkv = 4096, kv = 1024;

  // Plain read bandwidth of this card, as a ceiling: a GEMV chain cannot do better.
  for (WeightFormat format : {WeightFormat::q8_0, WeightFormat::q6_k, WeightFormat::q4_k, WeightFormat::q5_k}) {
    struct Layer {
      Weight q, k, v, o, gate, up, down;
    };
    std::vector<Layer> model;
    size_t bytes = 0;
    for (int i = 0; i < layers; ++i) {
      auto add = [&](int64_t n, int64_t k) {
        bytes += packed_sizes(packed_layout_of(format), format, n, k).total();
        return make(format, n, k, rng, context, staging, i == 0);
      };
      model.push_back({add(qkv, hidden), add(kv, hidden), add(kv, hidden), add(hidden, hidden), add(inner, hidden),
                       add(inner, hidden), add(hidden, inner)});
    }
    for (int tokens : {1, 2, 4, 8}) {
      auto* x = static_cast<float*>(device_alloc(tokens * inner * 4));
      auto* norm = static_cast<float*>(device_alloc(hidden * 4));
      auto* y = static_cast<float*>(device_alloc(tokens * 3 * inner * 4));
      auto* y2 = static_cast<float*>(device_alloc(tokens * inner * 4));
      std::vector<float> hx(tokens * inner), hn(hidden, 1.0f);
      std::normal_distribution<float> normal;
      for (auto& v : hx) v = normal(rng) * (rng() % 97 == 0 ? 30.0f : 1.0f);
      check(cudaMemcpy(x, hx.data(), hx.size() * 4, cudaMemcpyHostToDevice), "copy");
      check(cudaMemcpy(norm, hn.data(), hn.size() * 4, cudaMemcpyHostToDevice), "copy");
      const auto layout = packed_layout_of(format);
      auto gemv = [&](std::vector<std::pair<const Weight*, float*>> outs, const float* in, int k, bool normed,
                      bool accumulate, bool gated) {
        GemvArgs a = {};
        a.x = in, a.x_stride = k, a.norm_weight = normed ? norm : nullptr, a.norm_epsilon = 1e-6f, a.tokens = tokens;
        a.accumulate = accumulate, a.gated = gated, a.activation = Activation::silu;
        for (auto& [w, out] : outs) a.outputs[a.num_outputs++] = {packed_view(w->view), nullptr, out, inner};
        gemv_dp4a(layout, a, context);
      };
      // Right?
      context.pdl = false;
      gemv({{&model[0].q, y}}, x, hidden, false, false, false);
      std::vector<float> hy(inner);
      check(cudaMemcpy(hy.data(), y, hidden * 4, cudaMemcpyDeviceToHost), "copy");
      const double error_q = max_error(model[0].q, hx, hy, 50);
      gemv({{&model[0].down, y2}}, x, inner, false, false, false);
      check(cudaMemcpy(hy.data(), y2, hidden * 4, cudaMemcpyDeviceToHost), "copy");
      const double error_down = max_error(model[0].down, hx, hy, 50);

      for (bool pdl : {false, true}) {
        context.pdl = pdl;
        cudaGraph_t graph;
        cudaGraphExec_t exec;
        check(cudaStreamBeginCapture(context.stream, cudaStreamCaptureModeRelaxed), "capture");
        for (const Layer& l : model) {
          gemv({{&l.q, y}, {&l.k, y + inner}, {&l.v, y + 2 * inner}}, x, hidden, true, false, false);
          gemv({{&l.o, x}}, y, qkv, false, true, false);
          gemv({{&l.gate, y2}, {&l.up, y2}}, x, hidden, true, false, true);
          gemv({{&l.down, x}}, y2, inner, false, true, false);
        }
        check(cudaStreamEndCapture(context.stream, &graph), "capture");
        check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
        cudaEvent_t begin, end;
        check(cudaEventCreate(&begin), "event");
        check(cudaEventCreate(&end), "event");
        std::vector<float> times;
        for (int r = 0; r < 25; ++r) {
          check(cudaEventRecord(begin, context.stream), "event");
          check(cudaGraphLaunch(exec, context.stream), "graph");
          check(cudaEventRecord(end, context.stream), "event");
          check(cudaEventSynchronize(end), "event");
          float ms;
          check(cudaEventElapsedTime(&ms, begin, end), "event");
          if (r >= 5) times.push_back(ms);
        }
        std::sort(times.begin(), times.end());
        const float ms = times[times.size() / 2];
        std::printf("%-5s m=%d pdl=%d  %8.1f us/layer  %7.0f GB/s   rel.err q %.4f down %.4f\n",
                    info(format).name.data(), tokens, pdl, ms * 1000 / layers, bytes / ms / 1e6, error_q, error_down);
        std::fflush(stdout);
        check(cudaGraphExecDestroy(exec), "graph");
        check(cudaGraphDestroy(graph), "graph");
      }
      for (void* p : {static_cast<void*>(x), static_cast<void*>(norm), static_cast<void*>(y), static_cast<void*>(y2)})
        check(cudaFree(p), "free");
    }
    for (Layer& l : model)
      for (Weight* w : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down})
        check(cudaFree(const_cast<void*>(w->view.data)), "free");
  }
}
