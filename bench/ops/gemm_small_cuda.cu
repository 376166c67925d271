// The linears of a step of a few to some hundred tokens of a dense model, layer after layer in one CUDA graph,
// attention left out: every candidate of the table, and every tile of gemm_imma.
//   gemm_small_cuda SHAPE FORMATS TOKENS WHAT [OPS]
//     SHAPE    8b, 1b or 0.6b          FORMATS  Q8_0,Q4_K,...          TOKENS   1,2,4,...
//     WHAT     auto,gemv_dp4a,gemm_imma,gemm_hmma,gemm_wgmma,dequant_gemm_bf16,tile0,..., or from copies gemm_stream,
//              cublaslt_bf16, and cublaslt_bf16+narrow with bf16 between the ops
//     OPS      letters of the linears to run: q(kv), o, g(ate and up), d(own), all without; GB/s are of the whole
//              layer; several sets with commas between
// Prints us a layer, GB/s of packed weights, TFLOP/s.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "backend/bf16_gemm.h"
#include "backend/linear_ops.h"
#include "quant/format.h"

using namespace imp;
using namespace imp::cuda;

namespace {

struct Shape {
  const char* name;
  int hidden, inner, q, kv, layers;
};
constexpr Shape kShapes[] = {
    {"8b", 4096, 12288, 4096, 1024, 10}, {"1b", 2048, 8192, 2048, 512, 16}, {"0.6b", 1024, 3072, 2048, 1024, 28}};

std::vector<std::string> split(const char* list) {
  std::vector<std::string> parts(1);
  for (; *list; ++list) {
    if (*list == ',') {
      parts.emplace_back();
    } else {
      parts.back() += *list;
    }
  }
  return parts;
}

char* device_alloc(int64_t bytes) {
  void* p;
  check(cudaMalloc(&p, static_cast<size_t>(bytes)), "cudaMalloc");
  check(cudaMemset(p, 0x11, static_cast<size_t>(bytes)), "cudaMemset");
  return static_cast<char*>(p);
}

struct Layer {
  WeightView q, k, v, o, gate, up, down;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) return std::fprintf(stderr, "see the head of this program's source\n"), 2;
  cudaDeviceProp prop;
  check(cudaGetDeviceProperties(&prop, 0), "device");
  LinearContext context = {};
  check(cudaStreamCreate(&context.launch.stream), "stream");
  context.launch.num_sms = prop.multiProcessorCount;
  context.launch.max_shared_bytes = static_cast<int>(prop.sharedMemPerBlockOptin);
  context.launch.pdl = prop.major >= 9;
  context.capability = 10 * prop.major + prop.minor;
  context.switches.q4k_hmma = true;
  constexpr int64_t kMaxTokens = 1024, kLibraryBytes = int64_t{64} << 20;
  const int64_t max_cols = 12288;
  CublasLt library;
  library.open(device_alloc(kLibraryBytes), kLibraryBytes, {});
  context.cublaslt = &library;
  context.x_bf16 = device_alloc(kMaxTokens * max_cols * 2);
  context.weight_elements = int64_t{64} << 20;
  context.weight_bf16 = device_alloc(context.weight_elements * 2);
  context.gate_up_bytes = kMaxTokens * max_cols * 8;
  context.gate_up = device_alloc(context.gate_up_bytes);
  context.imma.tokens_bytes = imma_tokens_bytes(kMaxTokens, max_cols);
  context.imma.tokens = device_alloc(context.imma.tokens_bytes);
  context.imma.partial_bytes = kImmaPartialBytes;
  context.imma.partial = reinterpret_cast<float*>(device_alloc(kImmaPartialBytes));
  context.imma.num_counters = kImmaCounters;
  context.imma.counters = reinterpret_cast<int32_t*>(device_alloc(kImmaCounters * 4));
  check(cudaMemset(context.imma.counters, 0, kImmaCounters * 4), "memset");
  auto* x = reinterpret_cast<float*>(device_alloc(kMaxTokens * max_cols * 4));
  auto* y = reinterpret_cast<float*>(device_alloc(kMaxTokens * 3 * max_cols * 4));
  auto* norm = reinterpret_cast<float*>(device_alloc(max_cols * 4));

  // Codes are random, as they are in a model; scales are not, so that nothing overflows.
  std::vector<uint32_t> noise(size_t{4} << 20);
  std::mt19937 rng(1);
  for (uint32_t& word : noise) word = rng();

  const Shape* shape = &kShapes[0];
  for (const Shape& s : kShapes)
    if (s.name == std::string(argv[1])) shape = &s;
  for (const std::string& name : split(argv[2])) {
    const auto known = std::ranges::find(all_formats(), name, &FormatInfo::name);
    if (known == all_formats().end()) return std::fprintf(stderr, "no format %s\n", name.c_str()), 2;
    const WeightFormat format = known->format;
    const PackedLayout layout = packed_layout_of(format);
    std::vector<Layer> model;
    Bf16Weights copies;
    std::vector<void*> copied;
    const std::string whats = argv[4];
    const bool with_copies =
        whats.find("cublaslt_bf16") != std::string::npos || whats.find("gemm_stream") != std::string::npos;
    context.bf16 = with_copies ? &copies : nullptr;
    int64_t bytes = 0, weights = 0;
    for (int i = 0; i < shape->layers; ++i) {
      auto add = [&](int64_t n, int64_t k) {
        const int64_t size = packed_sizes(layout, format, n, k).total();
        bytes += size, weights += n * k;
        char* data = device_alloc(size);
        const int64_t codes = packed_sizes(layout, format, n, k).codes_bytes;
        for (int64_t at = 0; at < codes; at += static_cast<int64_t>(noise.size()) * 4)
          check(cudaMemcpy(data + at, noise.data(), std::min<int64_t>(codes - at, noise.size() * 4),
                           cudaMemcpyHostToDevice),
                "copy");
        return WeightView{data, format, n, k, static_cast<int>(layout), nullptr, 1.0f};
      };
      const int h = shape->hidden;
      model.push_back({add(shape->q, h), add(shape->kv, h), add(shape->kv, h), add(h, shape->q), add(shape->inner, h),
                       add(shape->inner, h), add(h, shape->inner)});
      if (!with_copies) continue;
      const auto allocate = [&](uint64_t size) {
        return copied.emplace_back(device_alloc(static_cast<int64_t>(size)));
      };
      const Layer& l = model.back();
      const std::vector<WeightView> linears[] = {{l.q, l.k, l.v}, {l.o}, {l.gate, l.up}, {l.down}};
      for (const std::vector<WeightView>& linear : linears) copies.add(linear, allocate, context.launch);
    }
    for (const std::string& tokens_text : split(argv[3])) {
      const int64_t m = std::atoi(tokens_text.c_str());
      std::vector<std::pair<std::string, std::string>> runs;
      for (const std::string& what : split(argv[4]))
        for (const std::string& ops : split(argc > 5 ? argv[5] : "qogd")) runs.emplace_back(what, ops);
      for (const auto& run : runs) {
        const std::string &what = run.first, &ops = run.second;
        const int tile = what.rfind("tile", 0) == 0 ? std::atoi(what.c_str() + 4) : -1;
        const std::string name_of_kernel = what.substr(0, what.find('+'));
        const bool narrow = what.ends_with("+narrow");
        const DType between = narrow ? DType::bf16 : DType::f32;
        auto linear = [&](std::vector<std::pair<WeightView, float*>> outs, float* in, bool normed, bool accumulate,
                          bool gated) {
          std::vector<LinearOutput> outputs;
          const int64_t k = outs[0].first.cols;
          int64_t width = 0;  // q, k and v lie side by side
          for (auto& [w, to] : outs) width += gated ? 0 : w.rows;
          for (auto& [w, to] : outs)
            outputs.push_back({w, nullptr, {to, gated ? between : DType::f32, m, w.rows, gated ? w.rows : width}});
          LinearArgs args = {.x = {in, accumulate ? between : DType::f32, m, k, k}, .outputs = outputs};
          args.norm_weight = normed ? norm : nullptr, args.norm_epsilon = 1e-6f;
          args.accumulate = accumulate, args.gated = gated;
          if (tile >= 0) return gemm_imma_tile(tile, layout, args, context.imma, context.launch);
          run_linear(context, args, name_of_kernel == "auto" ? "" : name_of_kernel);
        };
        auto chain = [&] {
          for (const Layer& l : model) {
            if (ops.find('q') != std::string::npos)
              linear({{l.q, y}, {l.k, y + shape->q}, {l.v, y + shape->q + shape->kv}}, x, true, false, false);
            if (ops.find('o') != std::string::npos) linear({{l.o, x}}, y, false, true, false);
            if (ops.find('g') != std::string::npos) linear({{l.gate, y}, {l.up, y}}, x, true, false, true);
            if (ops.find('d') != std::string::npos) linear({{l.down, x}}, y, false, true, false);
          }
        };
        cudaGraph_t graph = nullptr;
        cudaGraphExec_t exec;
        try {
          chain();  // library handles and kernel attributes are made outside of the recording
          check(cudaStreamSynchronize(context.launch.stream), "first run");
          check(cudaStreamBeginCapture(context.launch.stream, cudaStreamCaptureModeRelaxed), "capture");
          chain();
          check(cudaStreamEndCapture(context.launch.stream, &graph), "capture");
        } catch (const Error& e) {
          std::printf("%-5s %-5s m=%-3ld %-18s %s\n", shape->name, name.c_str(), long(m), what.c_str(), e.what());
          if (graph) check(cudaGraphDestroy(graph), "graph");
          continue;
        }
        check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
        cudaEvent_t begin, end;
        check(cudaEventCreate(&begin), "event");
        check(cudaEventCreate(&end), "event");
        std::vector<float> times;
        for (int r = 0; r < 12; ++r) {
          check(cudaEventRecord(begin, context.launch.stream), "event");
          check(cudaGraphLaunch(exec, context.launch.stream), "graph");
          check(cudaEventRecord(end, context.launch.stream), "event");
          check(cudaEventSynchronize(end), "event");
          float ms;
          check(cudaEventElapsedTime(&ms, begin, end), "event");
          if (r >= 3) times.push_back(ms);
        }
        std::sort(times.begin(), times.end());
        const double ms = times[times.size() / 2];
        std::printf("%-5s %-5s m=%-3ld %-26s %-4s %8.1f us/layer %6.0f GB/s %6.1f TFLOP/s\n", shape->name, name.c_str(),
                    long(m), what.c_str(), ops.c_str(), ms * 1000 / shape->layers, double(bytes) / ms / 1e6,
                    2.0 * double(weights) * double(m) / ms / 1e9);
        std::fflush(stdout);
        check(cudaEventDestroy(begin), "event");
        check(cudaEventDestroy(end), "event");
        check(cudaGraphExecDestroy(exec), "graph");
        check(cudaGraphDestroy(graph), "graph");
      }
    }
    for (void* copy : copied) check(cudaFree(copy), "free");
    for (const Layer& l : model)
      for (const WeightView* w : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down})
        check(cudaFree(const_cast<void*>(w->data)), "free");
  }
}
