// Decode attention of one step, layer after layer in one CUDA graph: time a layer, bytes of K and V a second.
//   attention_cuda                  the shapes of known models at many depths and batch sizes, with the backend's plans
//   attention_cuda brief            the first of them alone
//   attention_cuda sweep SHAPE D..  one shape with many plans, at depths such as 4096, 512x16 or 512x16+16384;
//                                  "ordered" before some: blocks of a sequence lie one after another
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
bool shuffled = true;  // blocks of a sequence lie anywhere; else one after another

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

/// Reads `words` 16-byte words, and writes something that depends on all of them. Threads and shared memory are those
/// of a GEMV, beside which attention must fit.
constexpr int kStreamThreads = 512, kStreamBytes = 108 * 1024;
__global__ __launch_bounds__(kStreamThreads, 2) void stream_weights(const uint4* weights, int64_t words, float* q) {
  constexpr int kAtOnce = 8;
  pdl_trigger();
  uint32_t sum = 0;
  const int64_t stride = int64_t{gridDim.x} * kStreamThreads;
  for (int64_t i = blockIdx.x * int64_t{kStreamThreads} + threadIdx.x; i < words; i += kAtOnce * stride) {
    uint4 w[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) w[j] = load_stream_16(weights + min(i + j * stride, words - 1));
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) sum += w[j].x ^ w[j].y ^ w[j].z ^ w[j].w;
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
  Step(Bench& bench, const Shape& shape, const std::vector<int>& depths)
      : bench_(bench), shape_(shape), batch_(static_cast<int>(depths.size())) {
    const int batch = batch_, deepest = *std::max_element(depths.begin(), depths.end());
    const int64_t stride = (deepest + kBlockSize - 1) / kBlockSize;
    int64_t per_layer = 0, tokens = 0;
    for (int depth : depths) per_layer += (depth + kBlockSize - 1) / kBlockSize, tokens += depth;
    const int64_t elements = per_layer * kBlockSize * shape.num_kv_heads * shape.head_dim;
    layer_bytes_ = tokens * shape.num_kv_heads * shape.head_dim * 4;
    layers_ = static_cast<int>(std::clamp<int64_t>((int64_t{4} << 30) / (elements * 4), 4, shape.layers));
    check(cudaMalloc(&cache_, static_cast<size_t>(elements * 4 * layers_)), "cudaMalloc");
    fill_random<<<1024, 256>>>(cache_, elements * 2 * layers_, 7);
    elements_ = elements;
    std::vector<int32_t> ids(static_cast<size_t>(per_layer)), tables(static_cast<size_t>(stride * batch)),
        starts(batch + 1), lengths(depths.begin(), depths.end()), positions(lengths);
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
    if (shuffled)
      for (size_t i = ids.size(); i > 1; --i) std::swap(ids[i - 1], ids[i * 2654435761u % i]);
    for (int s = 0; s < batch; ++s) {
      --positions[s];
      for (int i = 0; i < (depths[s] + kBlockSize - 1) / kBlockSize; ++i, ids.pop_back())
        tables[s * stride + i] = ids.back();
    }
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
                   .block_table_stride = static_cast<int>(stride),
                   .positions = positions_,
                   .max_query_len = 1,
                   .max_context_len = deepest};
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
    launch(bench_.context, "stream", stream_weights, 132, kStreamThreads, kStreamBytes,
           bench_.weights + layer % slots * words, words, values_);
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

void print_line(Bench& bench, Step& step, const DecodePlan& plan, const std::string& label) {
  const auto attention = [&](const QkRopeKvArgs& rope, const AttentionArgs& args) {
    rope_attention_decode(rope, args, plan, bench.scratch, bench.context);
  };
  const double plain = step.alone(false, attention), pdl = step.alone(true, attention), in = step.in_step(attention);
  const auto share = [&](double us) { return 100 * step.layer_bytes() / us / 1e-6 / kReadBandwidth; };
  std::printf("%-24s w%d %3d/%-2d s%d p%d %9.2f %9.2f %9.2f %8.0f%% %8.0f%%\n", label.c_str(), plan.warps, plan.splits,
              plan.cluster, plan.stages, plan.min_pages, plain, pdl, in, share(std::min(pdl, plain)), share(in));
  std::fflush(stdout);
}
void print_head() {
  std::printf("%-24s %-16s %9s %9s %9s %9s %9s\n", "shape, depth x sequences", "plan", "alone us", "+pdl us", "in step",
              "of alone", "of step");
}

void table(Bench& bench, bool brief) {
  print_head();
  for (const Shape& shape : kShapes) {
    const auto line = [&](const std::vector<int>& depths, const std::string& what, bool split = true) {
      Step step(bench, shape, depths);
      DecodePlan plan = plan_decode(step.args(0), true, bench.scratch, bench.context);
      if (!split) plan.splits = plan.cluster = 1;
      print_line(bench, step, plan, std::string(shape.name) + " " + what);
    };
    for (const auto& [depth, batch] : {std::pair{16, 1},
                                       {512, 1},
                                       {2048, 1},
                                       {4096, 1},
                                       {16384, 1},
                                       {65536, 1},
                                       {4096, 4},
                                       {512, 16},
                                       {4096, 16},
                                       {512, 64},
                                       {2048, 64}})
      line(std::vector<int>(batch, depth), std::to_string(depth) + "x" + std::to_string(batch));
    for (int others : {4, 16, 63}) {
      std::vector<int> depths(others, 512);
      depths.push_back(16384);
      line(depths, "512x" + std::to_string(others) + "+16384");
      line(depths, "one block a sequence", false);
    }
    if (brief) return;
  }
}

void sweep(Bench& bench, const Shape& shape, const std::string& text) {
  const size_t x = text.find('x'), plus = text.find('+');
  const int batch = x == std::string::npos ? 1 : std::atoi(text.c_str() + x + 1);
  std::vector<int> depths(batch, std::atoi(text.c_str()));
  if (plus != std::string::npos) depths.push_back(std::atoi(text.c_str() + plus + 1));
  Step step(bench, shape, depths);
  const int pages = (depths.back() + 15) / 16, per_head = bench.context.num_sms / shape.num_kv_heads;
  for (int warps : {4, 8})
    for (int cluster : {1, 2, 4, 8})
      for (int splits : {per_head / 2, per_head - 1, per_head, 2 * per_head, 2 * per_head + 1})
        for (int stages : {1, 2, 3, 4}) {
          DecodePlan plan = {cluster > 1 ? cluster : splits, cluster, stages, 1, warps};
          if (cluster > 1 && (splits != per_head || pages > 512)) continue;
          if (warps > max_decode_warps(shape.head_dim)) continue;
          if (pages / (plan.splits * warps) < stages || plan.splits * shape.num_kv_heads < 32) continue;
          const DecodeShared shared = decode_shared(shape.head_dim, warps, stages, 8, 1, cluster);
          if (shared.total + 1024 > bench.context.max_shared_bytes) continue;
          if (decode_partial_floats(plan, shape.num_kv_heads, shape.head_dim) > bench.scratch.partial_floats) continue;
          print_line(bench, step, plan, text);
        }
}

}  // namespace

int main(int argc, char** argv) {
  Bench bench;
  if (argc < 4 || std::strcmp(argv[1], "sweep") != 0) {
    table(bench, argc > 1 && std::strcmp(argv[1], "brief") == 0);
    return 0;
  }
  for (const Shape& shape : kShapes) {
    if (std::strcmp(shape.name, argv[2]) != 0) continue;
    print_head();
    for (int i = 3; i < argc; ++i)
      if (std::strcmp(argv[i], "ordered") == 0)
        shuffled = false;
      else
        sweep(bench, shape, argv[i]);
  }
}
