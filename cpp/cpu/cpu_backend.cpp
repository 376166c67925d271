#include <algorithm>
#include <chrono>
#include <cstring>
#include <set>

#include "config/config.h"
#include "config/describe.h"
#include "config/options.h"
#include "config/value.h"
#include "cpu/attention.h"
#include "cpu/cpu_info.h"
#include "cpu/embed.h"
#include "cpu/isa.h"
#include "cpu/lazy_memory.h"
#include "cpu/linear.h"
#include "cpu/qk_rope_kv.h"
#include "cpu/rms_norm.h"
#include "cpu/softcap.h"
#include "exec/backend.h"
#include "ops/op_cost.h"
#include "reference/reference.h"

namespace imp {
namespace {

using namespace cpu;

constexpr int kMaxThreads = 512;

std::string shape_text(const TensorInfo& tensor) {
  std::string text = "[";
  for (size_t i = 0; i < tensor.shape.size(); ++i) text += cat(i ? ", " : "", tensor.shape[i]);
  return text + "]";
}

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const BackendOptions& options)
      : isa_(choose_isa(options.force_isa)),
        pool_(options.num_threads > 0 ? options.num_threads : usable_cores()),
        force_linear_(options.force_linear),
        scratch_(kScratchBytes),
        context_{pool_, isa_, force_linear_, scratch_.bytes()},
        profiling_(options.settings && options.settings->diagnostics.profile) {
    if (options.settings) switches_ = linear_switches(*options.settings);
    linear_log_.launched = [this](std::string_view kernel) { count(kernel); };
  }

  std::string_view name() const override { return "cpu"; }
  std::string device_name() const override {
    const int threads = pool_.num_threads();
    return cat(cpu_brand(), ", ", isa_name(isa_), ", ", threads, threads == 1 ? " thread" : " threads");
  }
  uint64_t total_memory_bytes() const override { return cpu::total_memory_bytes(); }
  uint64_t free_memory_bytes() const override { return cpu::available_memory_bytes(); }

  void* allocate(uint64_t bytes, MemoryTag tag) override {
    memory_.emplace_back(bytes);
    memory_by_tag_[tag] += bytes;
    return memory_.back().data();
  }
  std::map<MemoryTag, uint64_t> memory_by_tag() const override { return memory_by_tag_; }

  std::vector<std::string> without_effect(const Settings& settings) const override;
  WeightView prepare_weight(const TensorInfo& tensor, LinearRole role) override;
  const float* prepare_vector(const TensorInfo& tensor) override;

  void embed(const EmbedArgs& args) override {
    run("embed", [&] { count(run_embed(context_, args)); }, [&] { return cost_of(args); });
  }
  void rms_norm(const RmsNormArgs& args) override {
    run("rms_norm", [&] { count(run_rms_norm(context_, args)); }, [&] { return cost_of(args); });
  }
  void linear(const LinearArgs& args) override {
    run(
        op_class(args.role), [&] { run_linear(context_, switches_, args, linear_log_); },
        [&] { return cost_of(args); });
  }
  void qk_rope_kv(const QkRopeKvArgs& args) override {
    run("qk_rope_kv", [&] { count(run_qk_rope_kv(context_, ropes_, args)); }, [&] { return cost_of(args); });
  }
  void attention(const AttentionArgs& args) override {
    run("attention", [&] { count(run_attention(context_, args)); }, [&] { return cost_of(args); });
  }
  void softcap(const SoftcapArgs& args) override {
    run("softcap", [&] { count(run_softcap(context_, args)); }, [&] { return cost_of(args); });
  }

  void sample(const SampleArgs& args) override {
    run(
        "sample",
        [&] {
          count("sample_rows");
          reference::sample(args);
        },
        [&] { return cost_of(args); });
  }

  void upload(void* dst, const void* src, uint64_t bytes) override {
    if (bytes > 0 && dst != src) std::memcpy(dst, src, bytes);
  }
  void download(void* dst, const void* src, uint64_t bytes) override { upload(dst, src, bytes); }
  void copy_kv_block(const KvLayerView& cache, int from, int to) override;

  std::vector<Verdict> explain_linear(const LinearQuery& query) const override;
  std::vector<Verdict> explain_attention(const AttentionQuery& query) const override {
    return attention_table().explain({isa_, kKvBlockSize, query});
  }
  std::map<std::string, int64_t> launches() const override;
  std::map<std::string, OpProfile> profile() const override;

 private:
  static constexpr int kKvBlockSize = 16;

  struct Launches {
    std::string_view kernel;
    int64_t times;
  };
  struct OpFigures {
    std::string_view op;
    OpProfile figures;
  };

  /// Names live in tables, one pointer each: the common case is a few comparisons of pointers.
  void count(std::string_view kernel) {
    for (Launches& known : launches_) {
      if (known.kernel.data() == kernel.data()) {
        ++known.times;
        return;
      }
    }
    launches_.push_back({kernel, 1});
  }

  template <class Op, class Cost>
  void run(std::string_view op, const Op& body, const Cost& cost) {
    if (!profiling_) return body();
    const OpCost moved = cost();
    const auto begin = std::chrono::steady_clock::now();
    body();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    OpProfile& figures = figures_of(op);
    ++figures.calls;
    figures.seconds += elapsed.count();
    figures.bytes += moved.bytes;
    figures.flops += moved.flops;
  }

  OpProfile& figures_of(std::string_view op) {
    for (OpFigures& known : profile_)
      if (known.op == op) return known.figures;
    profile_.push_back({op, {}});
    return profile_.back().figures;
  }

  Isa isa_;
  ThreadPool pool_;
  std::string force_linear_;
  LazyMemory scratch_;
  CpuContext context_;
  LinearSwitches switches_;
  LinearLog linear_log_;
  RopeCache ropes_;
  bool profiling_;
  std::vector<LazyMemory> memory_;
  std::vector<std::vector<float>> vectors_;
  std::set<const void*> weights_;  // counted in memory_by_tag_
  std::map<MemoryTag, uint64_t> memory_by_tag_;
  std::vector<Launches> launches_;
  std::vector<OpFigures> profile_;
};

/// What works on a CPU has a `c` among its platforms. What a rule sets, or asks for what a CPU does anyway, is not
/// told.
std::vector<std::string> CpuBackend::without_effect(const Settings& settings) const {
  std::vector<std::string> sentences;
  for (const OptionRow& row : option_rows()) {
    if (row.status != OptionStatus::active || row.platform.find('c') != std::string_view::npos) continue;
    const OptionValue value = read_option(row, settings);
    const bool implied =
        settings.runtime.debug_raw && std::ranges::any_of(debug_raw_settings(), [&](const ImpliedSetting& one) {
          return one.key == row.key && one.value == value;
        });
    const bool is_so_anyway = row.key == "runtime.cuda_graphs" && value == OptionValue(std::string("never"));
    if (value != default_value(row) && !implied && !is_so_anyway)
      sentences.push_back(cat(row.key, " = ", format_value(value), " has no effect on the CPU"));
  }
  if (settings.attention.no_qknorm_fused)
    sentences.push_back(
        "attention.no_qknorm_fused = true has no effect on the CPU: norm and rotation are an op of their own there");
  return sentences;
}

WeightView CpuBackend::prepare_weight(const TensorInfo& tensor, LinearRole) {
  const FormatInfo& format = info(tensor.format);
  if (tensor.shape.size() != 2)
    fail(ErrorCode::invalid_model, "tensor ", tensor.name, " has shape ", shape_text(tensor),
         "; a weight matrix has two dimensions");
  const int64_t rows = tensor.shape[0], cols = tensor.shape[1];
  if (cols % format.block_elements != 0) {
    fail(ErrorCode::invalid_model, "tensor ", tensor.name, " has ", cols, " columns; ", format.name,
         " stores blocks of ", format.block_elements);
  }
  if (static_cast<int64_t>(tensor.data.size()) != rows * row_bytes(tensor.format, cols)) {
    fail(ErrorCode::invalid_model, "tensor ", tensor.name, " ", shape_text(tensor), " in ", format.name, " takes ",
         rows * row_bytes(tensor.format, cols), " bytes; the file has ", tensor.data.size());
  }
  if (weights_.insert(tensor.data.data()).second) memory_by_tag_[MemoryTag::weights] += tensor.data.size();
  return {.data = tensor.data.data(), .format = tensor.format, .rows = rows, .cols = cols};
}

const float* CpuBackend::prepare_vector(const TensorInfo& tensor) {
  const FormatInfo& format = info(tensor.format);
  const int64_t n = tensor.num_elements();
  if (format.block_elements != 1 || static_cast<int64_t>(tensor.data.size()) != n * format.block_bytes) {
    fail(ErrorCode::invalid_model, "tensor ", tensor.name, " ", shape_text(tensor), " is stored as ", format.name,
         " in ", tensor.data.size(), " bytes; norms and biases are F32, F16 or BF16");
  }
  const bool aligned = reinterpret_cast<uintptr_t>(tensor.data.data()) % alignof(float) == 0;
  if (tensor.format == WeightFormat::f32 && aligned) return reinterpret_cast<const float*>(tensor.data.data());
  std::vector<float>& values = vectors_.emplace_back(n);
  dequantize(tensor.format, tensor.data.data(), values.data(), n);
  memory_by_tag_[MemoryTag::weights] += sizeof(float) * n;
  return values.data();
}

void CpuBackend::copy_kv_block(const KvLayerView& cache, int from, int to) {
  const size_t bytes = sizeof(uint16_t) * cache.num_kv_heads * cache.block_size * cache.head_dim;
  for (void* tensor : {cache.k, cache.v}) {
    auto* blocks = static_cast<std::byte*>(tensor);
    std::memcpy(blocks + to * bytes, blocks + from * bytes, bytes);
  }
}

std::vector<Verdict> CpuBackend::explain_linear(const LinearQuery& query) const {
  std::vector<Verdict> verdicts = linear_table(query.format)
                                      .explain({.isa = isa_,
                                                .role = query.role,
                                                .format = query.format,
                                                .m = query.m,
                                                .n = query.n,
                                                .k = query.k,
                                                .switches = switches_});
  if (force_linear_.empty()) return verdicts;
  for (Verdict& verdict : verdicts) verdict.chosen = verdict.name == force_linear_ && !verdict.reason;
  return verdicts;
}

std::map<std::string, int64_t> CpuBackend::launches() const {
  std::map<std::string, int64_t> times;
  for (const Launches& known : launches_) times[std::string(known.kernel)] += known.times;
  return times;
}

std::map<std::string, OpProfile> CpuBackend::profile() const {
  std::map<std::string, OpProfile> figures;
  for (const OpFigures& known : profile_) figures[std::string(known.op)] = known.figures;
  return figures;
}

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options) {
  if (options.num_threads < 0 || options.num_threads > kMaxThreads) {
    fail(ErrorCode::invalid_argument, "number of threads is ", options.num_threads, "; use 0 for one a core, or 1 to ",
         kMaxThreads);
  }
  if (options.settings && options.settings->attention.fp8_prefill == "always")
    fail(ErrorCode::unsupported,
         "attention.fp8_prefill = \"always\" needs a GPU with products in fp8, and this is the CPU; "
         "use \"auto\" or \"never\"");
  return std::make_unique<CpuBackend>(options);
}

}  // namespace imp
