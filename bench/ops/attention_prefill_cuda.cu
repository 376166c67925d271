// Prefill attention of dense models: time, and TFLOP/s of the products that the causal mask (and a window) leaves.
//   attention_prefill_cuda [name of a shape]
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "attention/attention.h"
#include "attention/head_widths.h"
#include "backend/device_memory.h"
#include "runtime/check.h"

using namespace imp;
using namespace imp::cuda;

namespace {

constexpr double kPeak = 790e12;  // what bf16 products reach on an H200 in practice
constexpr int kBlockSize = 16;

struct Shape {
  const char* name;
  int num_heads, num_kv_heads, head_dim, window;
  float softcap;
};
constexpr Shape kShapes[] = {{"qwen3-8b", 32, 8, 128, 0, 0},           {"llama-1b", 32, 8, 64, 0, 0},
                             {"qwen3-0.6b", 16, 8, 128, 0, 0},         {"gemma-3-1b", 4, 1, 256, 0, 0},
                             {"gemma-3-1b-window", 4, 1, 256, 512, 0}, {"gemma-2-2b-softcap", 8, 4, 256, 0, 50}};
struct Prompt {
  int tokens, context;
};
constexpr Prompt kPrompts[] = {{512, 512}, {2048, 2048}, {4096, 4096}, {16384, 16384}, {2048, 16384}};

struct Kernel {
  const char* name;
  void (*run)(const AttentionArgs&, const LaunchContext&);
  bool (*takes)(const Shape&);
};
bool any(const Shape&) { return true; }
bool wgmma(const Shape& s) { return head_width(s.head_dim)->wgmma != nullptr; }
bool fa2(const Shape& s) { return s.head_dim == 128; }
template <Fa2Sums kSums>
void run_fa2(const AttentionArgs& args, const LaunchContext& context) {
  attention_fa2(args, kSums, context);
}
void run_scores(const AttentionArgs& args, const LaunchContext& context) {
  static DeviceMemory scores(uint64_t{384} << 20);
  attention_scores(args, {scores.data(), int64_t{384} << 20}, context);
}
constexpr Kernel kKernels[] = {{"wgmma", attention_wgmma, wgmma},
                               {"fa2", run_fa2<Fa2Sums::fp32>, fa2},
                               {"fa2_accf16", run_fa2<Fa2Sums::f16_scores>, fa2},
                               {"fa2_accf16_pv", run_fa2<Fa2Sums::f16>, fa2},
                               {"tiled", attention_tiled, any},
                               {"scores", run_scores, any}};

template <class T>
DeviceMemory to_device(const std::vector<T>& values) {
  DeviceMemory memory(values.size() * sizeof(T));
  check(cudaMemcpy(memory.data(), values.data(), memory.bytes(), cudaMemcpyHostToDevice), "cudaMemcpy");
  return memory;
}

/// Normal values, repeated: random enough for the power that products take.
template <class T>
DeviceMemory normals(size_t count) {
  static std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<T> some(std::min<size_t>(count, 1 << 20)), all(count);
  for (T& x : some) x = static_cast<T>(normal(random));
  for (size_t i = 0; i < count; ++i) all[i] = some[i % some.size()];
  return to_device(all);
}

double causal_flops(const Shape& shape, const Prompt& prompt) {
  double pairs = 0;
  for (int t = prompt.context - prompt.tokens; t < prompt.context; ++t)
    pairs += shape.window > 0 ? std::min(t + 1, shape.window) : t + 1;
  return pairs * 4 * shape.head_dim * shape.num_heads;
}

void run(const Shape& shape, const Prompt& prompt) {
  const int blocks = prompt.context / kBlockSize;
  const int64_t width = int64_t{shape.num_heads} * shape.head_dim;
  const size_t cache = static_cast<size_t>(prompt.context) * shape.num_kv_heads * shape.head_dim;
  const DeviceMemory q = normals<float>(static_cast<size_t>(prompt.tokens * width));
  const DeviceMemory k = normals<__half>(cache), v = normals<__half>(cache);
  DeviceMemory out(static_cast<uint64_t>(prompt.tokens * width) * sizeof(float));
  std::vector<int32_t> order(static_cast<size_t>(blocks));
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(2));
  const DeviceMemory table = to_device(order), starts = to_device<int32_t>({0, prompt.tokens}),
                     lengths = to_device<int32_t>({prompt.context});
  AttentionArgs args = {};
  args.q = {q.data(), DType::f32, prompt.tokens, width, width};
  args.out = {out.data(), DType::f32, prompt.tokens, width, width};
  args.num_heads = shape.num_heads;
  args.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
  args.softcap = shape.softcap;
  args.sliding_window = shape.window;
  args.cache = {k.data(), v.data(), DType::f16, shape.num_kv_heads, shape.head_dim, kBlockSize};
  args.batch.num_sequences = 1;
  args.batch.query_start = static_cast<const int32_t*>(starts.data());
  args.batch.context_len = static_cast<const int32_t*>(lengths.data());
  args.batch.block_tables = static_cast<const int32_t*>(table.data());
  args.batch.block_table_stride = blocks;
  args.batch.max_query_len = prompt.tokens;
  args.batch.max_context_len = prompt.context;

  LaunchContext context;
  check(cudaDeviceGetAttribute(&context.num_sms, cudaDevAttrMultiProcessorCount, 0), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&context.max_shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0),
        "cudaDeviceGetAttribute");
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "cudaEventCreate"), check(cudaEventCreate(&end), "cudaEventCreate");
  const double flops = causal_flops(shape, prompt);
  for (const Kernel& kernel : kKernels) {
    if (!kernel.takes(shape)) continue;
    const int repeats = static_cast<int>(std::clamp(4e12 / flops, 2.0, 50.0));
    float best = 1e9f;
    for (int round = 0; round < 3; ++round) {
      check(cudaEventRecord(begin), "cudaEventRecord");
      for (int i = 0; i < repeats; ++i) kernel.run(args, context);
      check(cudaEventRecord(end), "cudaEventRecord");
      check(cudaEventSynchronize(end), kernel.name);
      float milliseconds = 0;
      check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
      best = std::min(best, milliseconds / repeats);
    }
    const double rate = flops / (best * 1e-3);
    std::printf("%-20s %5d after %5d  %-14s %9.1f us %7.1f TFLOP/s %5.1f %%\n", shape.name, prompt.tokens,
                prompt.context - prompt.tokens, kernel.name, best * 1e3, rate * 1e-12, 100 * rate / kPeak);
  }
}

}  // namespace

int main(int argc, char** argv) {
  for (const Shape& shape : kShapes) {
    if (argc > 1 && std::strcmp(argv[1], shape.name) != 0) continue;
    for (const Prompt& prompt : kPrompts) run(shape, prompt);
  }
}
