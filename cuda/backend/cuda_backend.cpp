#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "attention/attention_decode.h"
#include "backend/attention_ops.h"
#include "backend/device_facts.h"
#include "backend/device_memory.h"
#include "backend/linear_ops.h"
#include "backend/prefill_graphs.h"
#include "backend/prefill_linear.h"
#include "backend/prefill_weights.h"
#include "backend/sampling_ops.h"
#include "backend/step_graphs.h"
#include "backend/weight_upload.h"
#include "config/config.h"
#include "core/error.h"
#include "exec/backend.h"
#include "linear/dequantize.h"
#include "linear/dequantize_f16.h"
#include "model/spec.h"
#include "norm/elementwise.h"
#include "rope/qk_rope_kv.h"
#include "runtime/op_timer.h"

namespace imp {
namespace {

using namespace cuda;

constexpr size_t kCublasWorkspaceBytes = size_t{64} << 20;
constexpr int kDecodeCounters = 4096;      // of decode attention: the table refuses more sequences times kv heads
constexpr int64_t kMinTunedTokens = 512;   // below, the library's first suggestion is as good
constexpr int64_t kSmallStepTokens = 128;  // more than this, and only products in bf16 serve

/// cost_of() of args whose batch lies on the device.
OpCost cost_on_device(const AttentionArgs& args) {
  std::vector<int32_t> query_start(static_cast<size_t>(args.batch.num_sequences) + 1);
  check(cudaMemcpy(query_start.data(), args.batch.query_start, 4 * query_start.size(), cudaMemcpyDeviceToHost),
        "reading the batch");
  std::vector<int32_t> positions(static_cast<size_t>(query_start.back()));
  check(cudaMemcpy(positions.data(), args.batch.positions, 4 * positions.size(), cudaMemcpyDeviceToHost),
        "reading the batch");
  AttentionArgs on_host = args;
  on_host.batch.query_start = query_start.data();
  on_host.batch.positions = positions.data();
  return cost_of(on_host);
}

class CudaBackend final : public Backend {
 public:
  CudaBackend(const BackendOptions& options, int device)
      : device_(device),
        force_linear_(options.force_linear),
        graphs_(options.settings ? graph_settings(*options.settings) : GraphSettings{}) {
    check(cudaSetDevice(device), "cudaSetDevice");
    check(cudaGetDeviceProperties(&properties_, device), "cudaGetDeviceProperties");
    check(cudaStreamCreateWithFlags(&launch_.stream, cudaStreamNonBlocking), "cudaStreamCreate");
    launch_.num_sms = properties_.multiProcessorCount;
    launch_.max_shared_bytes = static_cast<int>(properties_.sharedMemPerBlockOptin);
    launch_.launches = &launches_;
    attention_.capability = linear_.capability = 10 * properties_.major + properties_.minor;
    launch_.pdl_launches = &pdl_launches_;
    launch_.max_cluster = decode_max_cluster(device);
    if (options.settings) {
      const Settings& settings = *options.settings;
      launch_.pdl = !settings.runtime.no_pdl && properties_.major >= 9;
      linear_.switches = {.no_dp4a_gemv = settings.gemm.no_dp4a_gemv,
                          .no_dp4a_lm = settings.gemm.no_dp4a_lm,
                          .no_mmvq = settings.gemm.no_mmvq,
                          .no_mmvq_q8_0 = settings.gemm.no_mmvq_q8_0,
                          .f16_sums = settings.gemm.cublas_fp16_acc == "on",
                          .q8_imma = settings.gemm.q8_imma_enabled,
                          .q4k_imma_prefill = settings.gemm.q4k_imma_prefill,
                          .q4k_hmma = settings.gemm.q4k_hmma_enabled};
      attention_.switches = attention_switches(settings);
      if (graphs_.enabled() && settings.runtime.prefill_graph)
        prefill_graphs_ = PrefillGraphs(
            [recorded = prefill_graph_settings(settings)] { return std::make_unique<StepGraphs>(recorded); });
      launch_.synchronous = settings.runtime.debug_raw;
      if (settings.diagnostics.profile) timer_ = std::make_unique<OpTimer>();
      lm_dequant_fp16_ = settings.generation.lm_dequant_fp16;
      deterministic_ = settings.runtime.deterministic_gemm || settings.runtime.deterministic;
      log_gemm_algo_ = settings.diagnostics.log_gemm_algo;
      fp8_prefill_ = settings.attention.fp8_prefill == "always";
      if (fp8_prefill_ && 10 * properties_.major + properties_.minor < 89)
        fail(ErrorCode::unsupported, "attention.fp8_prefill = \"always\" needs a GPU with products in fp8, of compute ",
             "capability 8.9 or later; this one is ", properties_.name, " with ", properties_.major, ".",
             properties_.minor);
    }
  }
  ~CudaBackend() override {
    static_cast<void>(cudaStreamSynchronize(launch_.stream));  // a step may be under way that nobody waited for
    graphs_.clear();
    prefill_graphs_.clear();
    static_cast<void>(cudaStreamDestroy(launch_.stream));
  }

  std::string_view name() const override { return "cuda"; }
  std::string device_name() const override {
    return cat(properties_.name, ", sm_", properties_.major, properties_.minor, ", ", properties_.multiProcessorCount,
               " SMs");
  }
  uint64_t total_memory_bytes() const override { return properties_.totalGlobalMem; }  // also after a failure
  uint64_t free_memory_bytes() const override { return memory_info().first; }
  bool memory_is_host() const override { return false; }
  void* allocate_host(uint64_t bytes) override {
    return pinned_.emplace_back(std::make_unique<PinnedMemory>(bytes))->data();
  }

  void* allocate(uint64_t bytes, MemoryTag tag) override {
    DeviceMemory& memory = memory_.emplace_back(std::max<uint64_t>(bytes, 16));
    check(cudaMemsetAsync(memory.data(), 0, memory.bytes(), launch_.stream), "cudaMemset");
    memory_by_tag_[tag] += bytes;
    return memory.data();
  }
  std::map<MemoryTag, uint64_t> memory_by_tag() const override { return memory_by_tag_; }

  uint64_t prepared_bytes(const TensorInfo& tensor) const override {
    if (tensor.shape.size() != 2) return static_cast<uint64_t>(tensor.num_elements()) * sizeof(float);
    const PackedLayout layout = packed_layout_of(tensor.format);
    return static_cast<uint64_t>(packed_sizes(layout, tensor.format, tensor.shape[0], tensor.shape[1]).total());
  }
  uint64_t workspace_bytes(const StepLimits& limits, const ModelSpec& spec) const override;
  uint64_t prefill_copy_bytes(const ModelTensors& tensors) const override {
    return fp8_prefill_ || linear_.switches.f16_sums ? 0 : PrefillWeights::bf16_bytes(tensors);
  }
  void begin_load(const ModelSpec& spec) override {
    attention_plan_ =
        plan_attention(spec, attention_.switches, attention_.capability, static_cast<int64_t>(free_memory_bytes()));
    attention_.switches = attention_plan_.switches;
  }

  WeightView prepare_weight(const TensorInfo& tensor, LinearRole role) override;
  const float* prepare_vector(const TensorInfo& tensor) override;
  void finish_weights() override {
    upload_of_weights().finish();
    weight_upload_.reset();  // its threads and staging memory are for loading alone
  }
  int32_t preferred_step_tokens() const override { return 4096; }
  DType intermediate_dtype(int64_t tokens) const override {
    return tokens >= (linear_.bf16 ? kBf16CopyTokens : kSmallStepTokens + 1) ? DType::bf16 : DType::f32;
  }
  WeightView prepare_head(const WeightView& head) override;
  void finish_load(const StepLimits& limits) override;
  ImmaScratch allocate_imma_scratch(const StepLimits& limits);
  int planned_context(int max_context_len) const override;
  void run_step(const StepShape& shape, const std::function<void()>& forward) override;
  std::vector<std::string> without_effect(const Settings& settings) const override;
  std::string last_step() const override;
  GraphStats graph_stats() const override;

  void embed(const EmbedArgs& args) override {
    // A step's first kernel waits until all before it has ended, without the overlap that the others have: kernels of a
    // step may touch what earlier steps wrote (the KV cache above all) before they wait for anything in their own.
    LaunchContext whole = launch_;
    whole.pdl = false;
    embed_rows(args, whole);
    timed("embed", args);
  }
  void rms_norm(const RmsNormArgs& args) override {
    cuda::rms_norm(args, launch_);
    timed("rms_norm", args);
  }
  void linear(const LinearArgs& args) override {
    run_linear(linear_with_launch(), args, force_linear_);
    timed(op_class(args.role), args);
  }
  void qk_rope_kv(const QkRopeKvArgs& args) override {
    cuda::qk_rope_kv(args, static_cast<int>(args.q.cols / args.head_dim), launch_);
    timed("qk_rope_kv", args);
  }
  void attention(const AttentionArgs& args) override {
    attention_.launch = launch_;
    run_attention(attention_, nullptr, args);
    if (timer_) timer_->end_op("attention", [args] { return cost_on_device(args); }, launch_);
  }
  void rope_attention(const QkRopeKvArgs& rope, const AttentionArgs& args) override {
    attention_.launch = launch_;
    if (!rope_runs_in_attention(attention_, args)) return Backend::rope_attention(rope, args);
    run_attention(attention_, &rope, args);
    const auto cost = [args, before = cost_of(rope)] {
      const OpCost own = cost_on_device(args);
      return OpCost{before.bytes + own.bytes, before.flops + own.flops};
    };
    if (timer_) timer_->end_op("attention", cost, launch_);
  }
  void softcap(const SoftcapArgs& args) override {
    cuda::softcap(args, launch_);
    timed("softcap", args);
  }

  void sample(const SampleArgs& args) override {
    sampling_.sample(args, launch_);
    timed("sample", args);
  }
  bool draws_tokens() const override { return properties_.major >= 9; }  // a cluster of blocks shares a row
  void mark(int slot) override { sampling_.mark(slot, launch_); }
  void wait(int slot) override { sampling_.wait(slot); }

  void upload(void* dst, const void* src, uint64_t bytes) override {
    if (bytes == 0) return;
    check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, launch_.stream), "copying to the device");
  }
  void download(void* dst, const void* src, uint64_t bytes) override {
    if (bytes == 0) return;
    check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, launch_.stream), "copying from the device");
    check(cudaStreamSynchronize(launch_.stream), "waiting for the device");
  }
  void copy_kv_block(const KvLayerView& cache, int from, int to) override;

  std::vector<Verdict> explain_linear(const LinearQuery& query) const override {
    return linear_table().explain({.role = query.role,
                                   .format = query.format,
                                   .m = query.m,
                                   .n = query.n,
                                   .k = query.k,
                                   .max_shared_bytes = launch_.max_shared_bytes,
                                   .switches = linear_.switches,
                                   .fp8 = linear_.fp8 != nullptr,
                                   .bf16_copy = linear_.bf16 && !Bf16Weights::reject(query.role, query.format, query.k),
                                   .capability = linear_.capability,
                                   .gated = query.role == LinearRole::gate_up,
                                   .rows = query.role == LinearRole::gate_up ? 2 * query.n : query.n,
                                   .num_sms = launch_.num_sms});
  }
  std::vector<Verdict> explain_attention(const AttentionQuery& query) const override {
    return cuda::explain_attention(attention_, query);
  }
  std::map<std::string, int64_t> launches() const override { return launches_; }
  std::map<std::string, OpProfile> profile() const override {
    return timer_ ? timer_->figures() : std::map<std::string, OpProfile>{};
  }

 private:
  const LinearContext& linear_with_launch() {
    linear_.launch = launch_;
    return linear_;
  }
  WeightUpload& upload_of_weights() {
    if (!weight_upload_) weight_upload_ = std::make_unique<WeightUpload>(launch_);
    return *weight_upload_;
  }
  /// After an op was called.
  template <class Args>
  void timed(std::string_view op, const Args& args) {
    if (timer_) timer_->end_op(op, [cost = cost_of(args)] { return cost; }, launch_);
  }
  std::pair<uint64_t, uint64_t> memory_info() const {
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return {free, total};
  }

  int device_;
  cudaDeviceProp properties_ = {};
  LaunchContext launch_;
  std::map<std::string, int64_t> launches_;
  int64_t pdl_launches_ = 0;
  std::string force_linear_;
  bool log_gemm_algo_ = false;
  bool fp8_prefill_ = false;
  bool deterministic_ = false, lm_dequant_fp16_ = false;
  StepShape last_shape_;
  std::unique_ptr<OpTimer> timer_;  // diagnostics.profile

  std::vector<DeviceMemory> memory_;
  std::vector<std::unique_ptr<PinnedMemory>> pinned_;
  std::map<MemoryTag, uint64_t> memory_by_tag_;
  std::map<const void*, WeightView> prepared_;   // by the file's bytes: a tied head is one weight
  std::unique_ptr<WeightUpload> weight_upload_;  // while weights are loaded
  int64_t max_cols_ = 0, max_intermediate_ = 0;

  CublasLt cublaslt_;
  PrefillWeights prefill_weights_;
  Bf16Weights bf16_;
  Fp8Weights fp8_;
  LinearContext linear_ = {};
  AttentionContext attention_ = {};
  AttentionPlan attention_plan_;
  SamplingOps sampling_;
  StepGraphs graphs_;
  PrefillGraphs prefill_graphs_{nullptr};
};

WeightView CudaBackend::prepare_weight(const TensorInfo& tensor, LinearRole role) {
  if (const auto known = prepared_.find(tensor.data.data()); known != prepared_.end()) return known->second;
  if (tensor.shape.size() != 2)
    fail(ErrorCode::invalid_model, "tensor ", tensor.name, " has ", tensor.shape.size(),
         " dimensions; a weight matrix has two");
  const int64_t rows = tensor.shape[0], cols = tensor.shape[1];
  const PackedLayout layout = packed_layout_of(tensor.format);
  if (layout != PackedLayout::kRows && cols % 32 != 0)
    fail(ErrorCode::unsupported, "tensor ", tensor.name, " has ", cols,
         " columns; the CUDA kernels need a multiple of 32");
  const int64_t bytes = packed_sizes(layout, tensor.format, rows, cols).total();
  void* packed = allocate(static_cast<uint64_t>(bytes), MemoryTag::weights);
  upload_of_weights().run(tensor.format, tensor.data, rows, cols, packed);
  max_cols_ = std::max(max_cols_, cols);
  if (role == LinearRole::gate_up) max_intermediate_ = std::max(max_intermediate_, rows);
  const WeightView view = {
      .data = packed, .format = tensor.format, .rows = rows, .cols = cols, .layout = static_cast<int>(layout)};
  prepared_[tensor.data.data()] = view;
  prefill_weights_.add(role, view);
  return view;
}

const float* CudaBackend::prepare_vector(const TensorInfo& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.num_elements()));
  dequantize(tensor.format, tensor.data.data(), values.data(), tensor.num_elements());
  void* data = allocate(values.size() * sizeof(float), MemoryTag::weights);
  upload_of_weights().copy(std::move(values), data);
  return static_cast<const float*>(data);
}

std::vector<std::string> CudaBackend::without_effect(const Settings& settings) const {
  std::vector<std::string> sentences = attention_plan_.sentences;
  if (settings.ffn.sparsity_threshold > 0)
    sentences.push_back("ffn.sparsity_threshold has no effect on CUDA: its kernels read and use every block");
  if (settings.runtime.no_pdl && properties_.major < 9)
    sentences.push_back("runtime.no_pdl has no effect: this device cannot start a kernel early in any case");
  return sentences;
}

/// What finish_load() takes for such a model.
uint64_t CudaBackend::workspace_bytes(const StepLimits& limits, const ModelSpec& spec) const {
  int64_t cols = spec.hidden_size, intermediate = 0;
  for (const LayerSpec& layer : spec.layers) {
    const int64_t q_cols = int64_t{layer.attention.num_heads} * layer.attention.head_dim;
    intermediate = std::max<int64_t>(intermediate, layer.ffn.intermediate_size);
    cols = std::max({cols, q_cols, intermediate});
  }
  const int64_t rows = limits.max_tokens * 2 * cols + gate_up_bytes(limits.max_tokens, intermediate);
  const int64_t head = lm_dequant_fp16_ ? int64_t{2} * spec.vocab_size * spec.hidden_size : 0;
  const int64_t scratch = 2 * PrefillWeights::scratch_elements(spec) + 4 * limits.max_tokens;
  const int64_t partial = 4 * max_decode_partial_floats(launch_);
  const int64_t imma = imma_tokens_bytes(std::min<int64_t>(limits.max_tokens, kImmaMaxTokens), cols) +
                       kImmaPartialBytes + kImmaCounters * int64_t{sizeof(int32_t)};
  return static_cast<uint64_t>(rows + head + scratch + partial + imma + attention_plan_.scores_bytes) +
         static_cast<uint64_t>(attention_plan_.cublas_decode_bytes) +
         (fp8_prefill_ ? PrefillWeights::fp8_bytes(spec) : 0) + kCublasWorkspaceBytes +
         kDecodeCounters * sizeof(int32_t) + SamplingOps::scratch_bytes(limits);
}

ImmaScratch CudaBackend::allocate_imma_scratch(const StepLimits& limits) {
  ImmaScratch scratch = {};
  scratch.tokens_bytes = imma_tokens_bytes(std::min<int64_t>(limits.max_tokens, kImmaMaxTokens), max_cols_);
  scratch.partial_bytes = kImmaPartialBytes;
  scratch.num_counters = kImmaCounters;
  scratch.tokens = allocate(static_cast<uint64_t>(scratch.tokens_bytes), MemoryTag::workspace);
  scratch.partial = static_cast<float*>(allocate(kImmaPartialBytes, MemoryTag::workspace));
  scratch.counters = static_cast<int32_t*>(allocate(kImmaCounters * sizeof(int32_t), MemoryTag::workspace));
  return scratch;
}

void CudaBackend::finish_load(const StepLimits& limits) {
  const auto tokens = static_cast<uint64_t>(limits.max_tokens);
  linear_.cublaslt = &cublaslt_;
  linear_.x_bf16 = allocate(tokens * static_cast<uint64_t>(max_cols_) * 2, MemoryTag::workspace);
  linear_.x_scales = static_cast<float*>(allocate(tokens * sizeof(float), MemoryTag::workspace));
  linear_.weight_elements = prefill_weights_.scratch_elements();
  linear_.weight_bf16 = allocate(static_cast<uint64_t>(linear_.weight_elements) * 2, MemoryTag::workspace);
  linear_.gate_up_bytes = gate_up_bytes(limits.max_tokens, max_intermediate_);
  linear_.gate_up = allocate(static_cast<uint64_t>(linear_.gate_up_bytes), MemoryTag::workspace);
  linear_.imma = allocate_imma_scratch(limits);
  cublaslt_.open(allocate(kCublasWorkspaceBytes, MemoryTag::workspace), kCublasWorkspaceBytes,
                 {.deterministic = deterministic_, .log = log_gemm_algo_});
  if (fp8_prefill_) {
    prefill_weights_.copy_to_fp8(
        fp8_, [&](uint64_t bytes) { return allocate(bytes, MemoryTag::fp8_prefill_cache); }, linear_with_launch());
    linear_.fp8 = &fp8_;
  }
  if (limits.prefill_copies) {
    prefill_weights_.copy_to_bf16(
        bf16_, [&](uint64_t bytes) { return allocate(bytes, MemoryTag::bf16_prefill_copies); }, launch_);
    linear_.bf16 = &bf16_;
  }
  for (int64_t m = limits.max_tokens; m >= kMinTunedTokens; m /= 2) prefill_weights_.tune(linear_with_launch(), m);
  prefill_weights_.prepare(linear_with_launch(), kBf16CopyTokens, std::min(limits.max_tokens, kMinTunedTokens));
  check(cudaStreamSynchronize(launch_.stream), "preparing prefill");
  if (attention_plan_.scores_bytes > 0)
    attention_.scores = {allocate(static_cast<uint64_t>(attention_plan_.scores_bytes), MemoryTag::attn_scores),
                         attention_plan_.scores_bytes};
  attention_.products = &cublaslt_;
  if (attention_plan_.cublas_decode_bytes > 0)
    attention_.cublas_decode = {
        allocate(static_cast<uint64_t>(attention_plan_.cublas_decode_bytes), MemoryTag::workspace),
        attention_plan_.cublas_decode_bytes};
  attention_.scratch.num_counters = kDecodeCounters;
  attention_.scratch.counters =
      static_cast<int32_t*>(allocate(kDecodeCounters * sizeof(int32_t), MemoryTag::workspace));
  attention_.scratch.partial_floats = max_decode_partial_floats(launch_);
  attention_.scratch.partial =
      static_cast<float*>(allocate(static_cast<uint64_t>(attention_.scratch.partial_floats) * 4, MemoryTag::workspace));
  sampling_.open(limits, [this](uint64_t bytes) { return allocate(bytes, MemoryTag::workspace); });
}

int CudaBackend::planned_context(int max_context_len) const {
  if (attention_.switches.cublas_decode) return max_context_len;  // what is gathered; no graph is to serve longer ones
  int planned = 256;
  while (planned < max_context_len) planned *= 2;
  return planned;
}

WeightView CudaBackend::prepare_head(const WeightView& head) {
  if (!lm_dequant_fp16_) return head;
  WeightView half = {.data = nullptr, .format = WeightFormat::f16, .rows = head.rows, .cols = head.cols};
  void* data = allocate(static_cast<uint64_t>(2 * head.rows * head.cols), MemoryTag::weights);
  upload_of_weights().finish();
  dequantize_f16(head, data, launch_);
  half.data = data;
  half.layout = static_cast<int>(PackedLayout::kRows);
  return half;
}

GraphStats CudaBackend::graph_stats() const {
  GraphStats stats = graphs_.stats(launch_);
  stats.prefill_captures = prefill_graphs_.captures();
  stats.prefill_replays = prefill_graphs_.replays();
  stats.refusals.insert(stats.refusals.end(), prefill_graphs_.refusals().begin(), prefill_graphs_.refusals().end());
  return stats;
}

std::string CudaBackend::last_step() const {
  if (last_shape_.num_tokens == 0) return "no step ran";
  std::string kernels;
  for (const auto& [name, count] : launches_) kernels += cat(kernels.empty() ? "" : ", ", name);
  return cat("the step before was ", words_of(last_shape_), "; kernels in use: ", kernels);
}

void CudaBackend::run_step(const StepShape& shape, const std::function<void()>& forward) {
  last_shape_ = shape;
  linear_.prompt = shape.max_query_len > 1;
  if (timer_) {
    timer_->begin_step(launch_);
    forward();
    return timer_->end_step(launch_);
  }
  const bool decode = shape.max_query_len == 1;
  if (!decode) return prefill_graphs_.takes(shape) ? prefill_graphs_.run(shape, launch_, forward) : forward();
  if (!graphs_.enabled()) return forward();
  graphs_.run(shape, launch_, forward);
}

void CudaBackend::copy_kv_block(const KvLayerView& cache, int from, int to) {
  const size_t bytes = sizeof(uint16_t) * static_cast<size_t>(cache.num_kv_heads * cache.block_size * cache.head_dim);
  for (void* tensor : {cache.k, cache.v}) {
    auto* blocks = static_cast<std::byte*>(tensor);
    check(cudaMemcpyAsync(blocks + static_cast<size_t>(to) * bytes, blocks + static_cast<size_t>(from) * bytes, bytes,
                          cudaMemcpyDeviceToDevice, launch_.stream),
          "copying a KV block");
  }
}

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(const BackendOptions& options, int device) {
  const DeviceFacts facts = device_facts(device);
  if (const std::string reason = why_unusable(facts); !reason.empty()) {
    const bool wrong_index = facts.num_devices > 0 && (device < 0 || device >= facts.num_devices);
    fail(wrong_index ? ErrorCode::invalid_argument : ErrorCode::cuda, "cannot use CUDA device ", device, ": ", reason,
         "; use device \"cpu\"");
  }
  return std::make_unique<CudaBackend>(options, device);
}

}  // namespace imp
