#include <algorithm>

#include "attention/attention_decode.h"
#include "backend/cuda_backend.h"
#include "backend/prefill_linear.h"
#include "config/config.h"
#include "core/error.h"
#include "linear/dequantize_f16.h"
#include "model/spec.h"

namespace imp::cuda {
namespace {

constexpr size_t kCublasWorkspaceBytes = size_t{64} << 20;
constexpr int kDecodeCounters = 4096;     // of decode attention: the table refuses more sequences times kv heads
constexpr int64_t kMinTunedTokens = 512;  // below, the library's first suggestion is as good

}  // namespace

CudaBackend::CudaBackend(const BackendOptions& options, int device)
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
    linear_.switches = linear_switches(settings);
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

CudaBackend::~CudaBackend() {
  static_cast<void>(cudaStreamSynchronize(launch_.stream));  // a step may be under way that nobody waited for
  graphs_.clear();
  prefill_graphs_.clear();
  static_cast<void>(cudaStreamDestroy(launch_.stream));
}

std::string CudaBackend::device_name() const {
  return cat(properties_.name, ", sm_", properties_.major, properties_.minor, ", ", properties_.multiProcessorCount,
             " SMs");
}

void* CudaBackend::allocate_host(uint64_t bytes) {
  return pinned_.emplace_back(std::make_unique<PinnedMemory>(bytes))->data();
}

void* CudaBackend::allocate(uint64_t bytes, MemoryTag tag) {
  DeviceMemory& memory = memory_.emplace_back(std::max<uint64_t>(bytes, 16));
  check(cudaMemsetAsync(memory.data(), 0, memory.bytes(), launch_.stream), "cudaMemset");
  memory_by_tag_[tag] += bytes;
  return memory.data();
}

uint64_t CudaBackend::prepared_bytes(const TensorInfo& tensor) const {
  if (tensor.shape.size() != 2) return static_cast<uint64_t>(tensor.num_elements()) * sizeof(float);
  const PackedLayout layout = packed_layout_of(tensor.format);
  return static_cast<uint64_t>(packed_sizes(layout, tensor.format, tensor.shape[0], tensor.shape[1]).total());
}

uint64_t CudaBackend::prefill_copy_bytes(const ModelTensors& tensors) const {
  return fp8_prefill_ || linear_.switches.f16_sums ? 0 : PrefillWeights::bf16_bytes(tensors);
}

void CudaBackend::begin_load(const ModelSpec& spec) {
  attention_plan_ =
      plan_attention(spec, attention_.switches, attention_.capability, static_cast<int64_t>(free_memory_bytes()));
  attention_.switches = attention_plan_.switches;
}

void CudaBackend::finish_weights() {
  upload_of_weights().finish();
  weight_upload_.reset();  // its threads and staging memory are for loading alone
}

WeightUpload& CudaBackend::upload_of_weights() {
  if (!weight_upload_) weight_upload_ = std::make_unique<WeightUpload>(launch_);
  return *weight_upload_;
}

std::pair<uint64_t, uint64_t> CudaBackend::memory_info() const {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return {free, total};
}

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

std::vector<std::string> CudaBackend::without_effect(const Settings& settings) const {
  std::vector<std::string> sentences = attention_plan_.sentences;
  if (settings.ffn.sparsity_threshold > 0)
    sentences.push_back("ffn.sparsity_threshold has no effect on CUDA: its kernels read and use every block");
  if (settings.runtime.no_pdl && properties_.major < 9)
    sentences.push_back("runtime.no_pdl has no effect: this device cannot start a kernel early in any case");
  return sentences;
}

}  // namespace imp::cuda
