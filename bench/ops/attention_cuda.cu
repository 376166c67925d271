// Decode attention of one step, layer after layer in one CUDA graph: time a layer, bytes of K and V a second.
//   attention_cuda                  the shapes of known models at many depths and batch sizes, with the backend's plans
//   attention_cuda sweep SHAPE D..  one shape at given depths, with many plans
// "alone": attention kernels one after another. "in step": what a layer gains in time when attention is put behind a
// kernel that streams as many weights as a QKV projection, so that caches are as cold and overlap as likely as in a
// step.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "attention/attention_decode.h"
#include "device/load.cuh"
#include "device/pdl.cuh"

using namespace imp;
using namespace imp::cuda;

namespace {

constexpr double kReadBandwidth = 4.645e12;  // of an H200, measured by a plain read
constexpr int kBlockSize = 16;

struct Shape {
  const char* name;
  int num_heads, num_kv_heads, head_dim, layers;
  bool norms;
  int64_t qkv_megabytes;
};
constexpr Shape kShapes[] = {{"qwen3-8b", 32, 8, 128, 36, true, 25},
                             {"qwen3-0.6b", 16, 8, 128, 28, true, 4},
                             {"llama-1b", 32, 8, 64, 16, false, 6},
                             {"gemma3-4b", 8, 4, 256, 34, true, 11},
                             {"smollm2-135m", 9, 3, 64, 30, false, 1}};

template <class T>
T* device_array(const std::vector<T>& values) {
  T* data;
  check(cudaMalloc(&data, values.size() * sizeof(T)), "cudaMalloc");
  check(cudaMemcpy(data, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy");
  return data;
}

__global__ void fill_random(__half* data, int64_t count, uint32_t seed) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    uint32_t x = static_cast<uint32_t>(i) * 2654435761u + seed;
    x ^= x >> 15, x *= 2246822519u, x ^= x >> 13;
    data[i] = __float2half(static_cast<float>(x >> 8) * 0x1p-23f - 1);
  }
}

/// Reads `words` 16-byte words, and writes something that depends on all of them.
__global__ __launch_bounds__(256) void stream_weights(const uint4* weights, int64_t words, float* q) {
  pdl_trigger();
  uint32_t sum = 0;
  for (int64_t i = blockIdx.x * int64_t{256} + threadIdx.x; i < words; i += int64_t{gridDim.x} * 256) {
    const uint4 w = load_stream_16(weights + i);
    sum += w.x ^ w.y ^ w.z ^ w.w;
  }
  pdl_wait();
  if (sum == 0x12345678) q[threadIdx.x] = 1;
}

struct Bench {
  LaunchContext context;
  AttentionScratch scratch = {};
  uint4* weights;
  int64_t weight_bytes = int64_t{2} << 30;

  Bench() {
    cudaDeviceProp prop;
    check(cudaGetDeviceProperties(&prop, 0), "device");
    check(cudaStreamCreate(&context.stream), "stream");
    context.num_sms = prop.multiProcessorCount;
    context.max_shared_bytes = static_cast<int>(prop.sharedMemPerBlockOptin);
    context.max_cluster = decode_max_cluster(0);
    scratch.partial_floats = max_decode_partial_floats(context) * 4;
    scratch.num_counters = 4096;
    check(cudaMalloc(&scratch.partial, static_cast<size_t>(scratch.partial_floats) * 4), "cudaMalloc");
    scratch.counters = device_array(std::vector<int32_t>(4096, 0));
    check(cudaMalloc(&weights, static_cast<size_t>(weight_bytes)), "cudaMalloc");
    check(cudaMemset(weights, 0x5a, static_cast<size_t>(weight_bytes)), "cudaMemset");
    std::printf("%s, %d SMs, clusters of up to %d\n", prop.name, context.num_sms, context.max_cluster);
  }

  /// Median milliseconds of a graph of what `record` launches.
  template <class Record>
  double time(const Record& record) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    check(cudaStreamBeginCapture(context.stream, cudaStreamCaptureModeRelaxed), "capture");
    record();
    check(cudaStreamEndCapture(context.stream, &graph), "capture");
    check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    cudaEvent_t begin, end;
    check(cudaEventCreate(&begin), "event");
    check(cudaEventCreate(&end), "event");
    std::vector<float> times;
    for (int r = 0; r < 13; ++r) {
      check(cudaEventRecord(begin, context.stream), "event");
      check(cudaGraphLaunch(exec, context.stream), "graph");
      check(cudaEventRecord(end, context.stream), "event");
      check(cudaEventSynchronize(end), "event");
      float ms;
      check(cudaEventElapsedTime(&ms, begin, end), "event");
      if (r >= 3) times.push_back(ms);
    }
    check(cudaGraphExecDestroy(exec), "graph");
    check(cudaGraphDestroy(graph), "graph");
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }
};

/// A step's attention: q, k and v of `batch` tokens at `depth`, and a cache a layer (fewer than the model has where
/// they are large).
class Step {
 public:
  Step(Bench& bench, const Shape& shape, int depth, int batch) : bench_(bench), shape_(shape), batch_(batch) {
    const int64_t blocks = (depth + kBlockSize - 1) / kBlockSize, per_layer = blocks * batch;
    const int64_t elements = per_layer * kBlockSize * shape.num_kv_heads * shape.head_dim;
    layer_bytes_ = int64_t{depth} * batch * shape.num_kv_heads * shape.head_dim * 4;
    layers_ = static_cast<int>(std::clamp<int64_t>((int64_t{4} << 30) / (elements * 4), 4, shape.layers));
    check(cudaMalloc(&cache_, static_cast<size_t>(elements * 4 * layers_)), "cudaMalloc");
    fill_random<<<1024, 256>>>(cache_, elements * 2 * layers_, 7);
    elements_ = elements;
    std::vector<int32_t> tables(static_cast<size_t>(per_layer)), starts(batch + 1), lengths(batch, depth),
        positions(batch, depth - 1);
    for (size_t i = 0; i < tables.size(); ++i) tables[i] = static_cast<int32_t>(i);
    for (size_t i = tables.size(); i > 1; --i) std::swap(tables[i - 1], tables[i * 2654435761u % i]);
    for (int i = 0; i <= batch; ++i) starts[i] = i;
    const int q_cols = shape.num_heads * shape.head_dim, kv_cols = shape.num_kv_heads * shape.head_dim;
    std::vector<float> values(static_cast<size_t>(batch) * (q_cols + 2 * kv_cols)), freq(shape.head_dim / 2, 0.01f),
        norm(shape.head_dim, 1.0f);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i * 7919 % 1000) / 500 - 1;
    tables_ = device_array(tables), starts_ = device_array(starts), lengths_ = device_array(lengths);
    positions_ = device_array(positions);
    values_ = device_array(values), freq_ = device_array(freq), norm_ = device_array(norm);
    out_ = device_array(std::vector<float>(static_cast<size_t>(batch) * q_cols));
    rope_ = {};
    rope_.q = f32_view(values_, batch, q_cols);
    rope_.k = f32_view(values_ + static_cast<int64_t>(batch) * q_cols, batch, kv_cols);
    rope_.v = f32_view(values_ + static_cast<int64_t>(batch) * (q_cols + kv_cols), batch, kv_cols);
    rope_.head_dim = rope_.rotary_dim = shape.head_dim;
    rope_.q_norm = rope_.k_norm = shape.norms ? norm_ : nullptr;
    rope_.norm_epsilon = 1e-6f, rope_.inv_freq = freq_, rope_.rope_magnitude = 1;
    rope_.pairing = RopePairing::half_split;
    rope_.batch = {.num_sequences = batch,
                   .query_start = starts_,
                   .context_len = lengths_,
                   .block_tables = tables_,
                   .block_table_stride = static_cast<int>(blocks),
                   .positions = positions_,
                   .max_query_len = 1,
                   .max_context_len = depth};
    args_ = {};
    args_.q = rope_.q, args_.out = f32_view(out_, batch, q_cols);
    args_.num_heads = shape.num_heads, args_.scale = 0.1f;
    args_.batch = rope_.batch;
  }
  ~Step() {
    for (void* p : {static_cast<void*>(cache_), static_cast<void*>(tables_), static_cast<void*>(starts_),
                    static_cast<void*>(lengths_), static_cast<void*>(positions_), static_cast<void*>(values_),
                    static_cast<void*>(freq_), static_cast<void*>(norm_), static_cast<void*>(out_)})
      static_cast<void>(cudaFree(p));
  }

  AttentionArgs args(int layer) {
    AttentionArgs args = args_;
    __half* k = cache_ + elements_ * 2 * layer;
    args.cache = {k, k + elements_, DType::f16, shape_.num_kv_heads, shape_.head_dim, kBlockSize};
    return args;
  }
  /// Microseconds a layer.
  template <class Attention>
  double alone(bool pdl, const Attention& attention) {
    bench_.context.pdl = pdl;
    return 1000 / layers_ * bench_.time([&] {
      for (int i = 0; i < layers_; ++i) attend(i, attention);
    });
  }
  template <class Attention>
  double in_step(const Attention& attention) {
    bench_.context.pdl = true;
    const double with = bench_.time([&] {
      for (int i = 0; i < layers_; ++i) stream(i), attend(i, attention);
    });
    if (streams_only_ == 0)
      streams_only_ = bench_.time([&] {
        for (int i = 0; i < layers_; ++i) stream(i);
      });
    return 1000 / layers_ * (with - streams_only_);
  }
  double layer_bytes() const { return static_cast<double>(layer_bytes_); }

 private:
  template <class Attention>
  void attend(int layer, const Attention& attention) {
    AttentionArgs a = args(layer);
    QkRopeKvArgs rope = rope_;
    rope.cache = a.cache;
    attention(rope, a);
  }
  void stream(int layer) {
    const int64_t words = shape_.qkv_megabytes * 65536, slots = bench_.weight_bytes / 16 / words;
    launch(bench_.context, "stream", stream_weights, 132 * 4, 256, 0, bench_.weights + layer % slots * words, words,
           values_);
  }

  Bench& bench_;
  Shape shape_;
  int batch_, layers_;
  int64_t layer_bytes_, elements_;
  double streams_only_ = 0;
  __half* cache_;
  int32_t *tables_, *starts_, *lengths_, *positions_;
  float *values_, *freq_, *norm_, *out_;
  QkRopeKvArgs rope_;
  AttentionArgs args_;
};

void table(Bench& bench) {
  std::printf("%-14s %6s %4s  %-14s %9s %9s %9s %9s %6s\n", "shape", "depth", "seqs", "plan", "alone us", "+pdl us",
              "in step", "GB/s", "share");
  for (const Shape& shape : kShapes) {
    for (const auto& [depth, batch] : {std::pair{16, 1},
                                       {128, 1},
                                       {512, 1},
                                       {4096, 1},
                                       {16384, 1},
                                       {65536, 1},
                                       {256, 4},
                                       {4096, 4},
                                       {512, 16},
                                       {4096, 16},
                                       {512, 64},
                                       {2048, 64}}) {
      Step step(bench, shape, depth, batch);
      const DecodePlan plan = plan_decode(step.args(0), true, bench.scratch, bench.context);
      const auto attention = [&](const QkRopeKvArgs& rope, const AttentionArgs& args) {
        rope_attention_decode(rope, args, plan, bench.scratch, bench.context);
      };
      const double plain = step.alone(false, attention), pdl = step.alone(true, attention),
                   in = step.in_step(attention);
      const double best = std::min(pdl, plain);
      std::printf("%-14s %6d %4d  w%d %2d/%-2d s%d    %9.2f %9.2f %9.2f %9.0f %5.0f%%\n", shape.name, depth, batch,
                  plan.warps, plan.splits, plan.cluster, plan.stages, plain, pdl, in, step.layer_bytes() / best / 1e3,
                  100 * step.layer_bytes() / best / 1e-6 / kReadBandwidth);
      std::fflush(stdout);
    }
  }
}

template <int kHeadDim>
void try_plan(Bench& bench, Step& step, const DecodePlan& plan, int depth) {
  const AttentionArgs args = step.args(0);
  const DecodeShared shared = decode_shared(kHeadDim, plan.warps, plan.stages, 8, 1, plan.cluster);
  if (shared.total + 1024 > bench.context.max_shared_bytes) return;
  const int pairs = args.batch.num_sequences * args.cache.num_kv_heads;
  if (decode_partial_floats(plan, pairs, kHeadDim) > bench.scratch.partial_floats) return;
  const auto attention = [&](const QkRopeKvArgs& rope, const AttentionArgs& a) {
    rope_attention_decode(rope, a, plan, bench.scratch, bench.context);
  };
  const double pdl = step.alone(true, attention), in = step.in_step(attention);
  std::printf("%6d x%-3d w%d %2d/%-2d s%d p%d %8.2f %8.2f us %7.0f GB/s\n", depth, args.batch.num_sequences, plan.warps,
              plan.splits, plan.cluster, plan.stages, plan.min_pages, pdl, in, step.layer_bytes() / pdl / 1e3);
  std::fflush(stdout);
}

template <int kHeadDim>
void sweep(Bench& bench, const Shape& shape, int depth, int batch) {
  Step step(bench, shape, depth, batch);
  const int pages = (depth + 15) / 16;
  std::vector<DecodePlan> plans;
  for (int cluster : {1, 2, 4, 8})
    for (int splits : {1, 2, 4, 8, 12, 14, 16, 32, 33})
      for (int stages : {1, 2, 3, 4}) {
        const int per_warp = pages / (splits * 4);  // of the narrower blocks
        if (splits % cluster != 0 || per_warp < stages / 2 || (per_warp > 4 && stages == 1)) continue;
        if (splits > 1 && batch * shape.num_kv_heads * splits > 2 * bench.context.num_sms) continue;
        if (splits < 8 && per_warp > 16 && batch == 1) continue;  // far too few blocks
        plans.push_back({splits, cluster, stages, 1});
      }
  for (const DecodePlan& plan : plans) {
    try_plan<kHeadDim>(bench, step, plan, depth);
    if (max_decode_warps(kHeadDim) == 8) {
      DecodePlan wide = plan;
      wide.warps = 8;
      try_plan<kHeadDim>(bench, step, wide, depth);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  Bench bench;
  if (argc < 4 || std::strcmp(argv[1], "sweep") != 0) {
    table(bench);
    return 0;
  }
  for (const Shape& shape : kShapes) {
    if (std::strcmp(shape.name, argv[2]) != 0) continue;
    std::printf("%s: depth, sequences, warps, splits/cluster, stages, pages a warp; alone and in step, us a layer\n",
                shape.name);
    for (int i = 3; i < argc; ++i) {
      const std::string text = argv[i];  // DEPTH or DEPTHxBATCH
      const size_t x = text.find('x');
      const int depth = std::atoi(text.c_str()), batch = x == std::string::npos ? 1 : std::atoi(text.c_str() + x + 1);
      if (shape.head_dim == 64) sweep<64>(bench, shape, depth, batch);
      if (shape.head_dim == 128) sweep<128>(bench, shape, depth, batch);
      if (shape.head_dim == 256) sweep<256>(bench, shape, depth, batch);
    }
  }
}
