#pragma once
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "formats/model_file.h"
#include "ops/args.h"
#include "ops/kernel_table.h"

namespace imp {

struct ModelSpec;
struct ModelTensors;
struct Settings;

/// What memory is for; `mem` of the report is grouped by it.
enum class MemoryTag : uint8_t {
  weights,
  bf16_prefill_copies,
  fp8_prefill_cache,
  kv_pool,
  workspace,
  attn_scores,
  logits,
  other
};
std::string_view memory_tag_name(MemoryTag tag);

/// A linear as the choice of a kernel sees it.
struct LinearQuery {
  LinearRole role;
  WeightFormat format;
  int64_t m, n, k;  // tokens, out features, in features
};
struct AttentionQuery {
  int64_t tokens;
  int max_query_len, max_context_len, num_heads, num_kv_heads, head_dim, sliding_window;
};

/// Time and bytes of one op class, filled while diagnostics.profile is on.
struct OpProfile {
  int64_t calls = 0;
  double seconds = 0;
  double bytes = 0;  // that the op must move at least
  double flops = 0;
  double limit_seconds = 0;  // that the device needs for these at least; 0 where its rates are not known
};

/// The most that a forward batch will hold; what a backend sizes its own workspace by.
struct StepLimits {
  int64_t max_tokens = 0;
  int64_t max_sequences = 0;
  int64_t max_logit_rows = 0;
  int64_t vocab_size = 0;       // where tokens are drawn
  bool prefill_copies = false;  // those of Backend::prefill_copy_bytes() are to be kept
};

/// Steps that ran as recorded graphs instead of launch by launch.
struct GraphStats {
  int64_t captures = 0;                               // of decode steps
  int64_t replays = 0;                                // steps; the one after a capture included
  std::string mode;                                   // a value of runtime.cuda_graphs, as resolved
  std::string reason;                                 // of the mode
  int64_t prefill_captures = 0, prefill_replays = 0;  // runtime.prefill_graph; in addition to those above
  std::string capture_mode = {};
  std::vector<std::string> refusals = {};  // why steps of a shape run without a graph although graphs are wanted
  bool early_launch = false;  // whether a kernel may start while the one before it ends (programmatic dependent launch)
  int64_t pdl_launches = 0;   // kernels launched so
};

/// What the launches of a forward pass depend on, besides addresses: passes of equal shape can be replayed.
struct StepShape {
  int64_t num_tokens = 0;
  int64_t num_logit_rows = 0;
  int num_sequences = 0;
  int max_query_len = 0;
  int max_context_len = 0;
  int num_drawn = 0;  // rows of logits that sample() draws from at the end
  bool plain_draws = true;
  auto operator<=>(const StepShape&) const = default;
};

/// Memory and ops of one device. Knows nothing of layers or requests. All calls come from one thread; ops run in call
/// order. Ops throw Error{unsupported} where no candidate can serve the problem; nothing falls back silently.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string_view name() const = 0;  // "cpu", "cuda"
  virtual std::string device_name() const = 0;
  virtual uint64_t total_memory_bytes() const = 0;
  virtual uint64_t free_memory_bytes() const = 0;
  /// Whether the host may read and write what allocate() gives.
  virtual bool memory_is_host() const { return true; }
  /// Host memory that copies to and from the device are fast with, and that ops can write small results into; lives as
  /// long as the backend. upload() from it comes back at once: mark() and wait() say when it may be written again.
  virtual void* allocate_host(uint64_t bytes) { return allocate(bytes, MemoryTag::other); }

  /// Zero-filled memory that lives as long as the backend. Only at load.
  virtual void* allocate(uint64_t bytes, MemoryTag tag) = 0;
  virtual std::map<MemoryTag, uint64_t> memory_by_tag() const = 0;

  /// Called first: settles what depends on the model, and throws what this backend has no kernel for. Takes no memory.
  virtual void begin_load(const ModelSpec&) {}
  /// For the memory plan, before anything is prepared: what a tensor of the file will take here, and what finish_load()
  /// and the ops will take besides the weights and the activations.
  virtual uint64_t prepared_bytes(const TensorInfo& tensor) const { return tensor.data.size(); }
  virtual uint64_t workspace_bytes(const StepLimits&, const ModelSpec&) const { return 0; }
  /// What copies of weights would take that are not needed but make prompts faster; kept where memory is plentiful.
  virtual uint64_t prefill_copy_bytes(const ModelTensors&) const { return 0; }

  /// The backend's form of a weight of the file; the file outlives the backend.
  virtual WeightView prepare_weight(const TensorInfo& tensor, LinearRole role) = 0;
  virtual const float* prepare_vector(const TensorInfo& tensor) = 0;  // norms, biases: fp32 [n]
  /// After the last of them: waits until all are in place.
  virtual void finish_weights() {}
  /// What the head's products read, of the prepared table: generation.lm_dequant_fp16 may want another form.
  virtual WeightView prepare_head(const WeightView& head) { return head; }

  /// Element type of what a step of this many rows hands from attention to o_proj and from gate|up to down_proj: f32,
  /// or bf16 where the backend's products round their inputs to it anyway.
  virtual DType intermediate_dtype(int64_t) const { return DType::f32; }
  /// Tokens of a prompt that one step should take to be efficient here.
  virtual int32_t preferred_step_tokens() const { return 512; }
  /// Called once, after all weights are prepared: takes the rest of the memory that ops need.
  virtual void finish_load(const StepLimits&) {}
  /// Longest context that a step of this shape should be planned for: a backend that replays steps rounds up, so that
  /// few shapes are distinct.
  virtual int planned_context(int max_context_len) const { return max_context_len; }
  /// Runs `forward`, or replays what it launched the last time this shape ran.
  virtual void run_step(const StepShape&, const std::function<void()>& forward) { forward(); }
  /// Settings that somebody changed and this backend has no mechanism for, a sentence each.
  virtual std::vector<std::string> without_effect(const Settings&) const { return {}; }
  /// Words about the step that ran last, for the message of a failure that is seen later. Needs no device.
  virtual std::string last_step() const { return "no step ran"; }
  virtual GraphStats graph_stats() const { return {0, 0, "never", "the CPU runs every step as it is"}; }

  virtual void embed(const EmbedArgs& args) = 0;
  virtual void rms_norm(const RmsNormArgs& args) = 0;
  virtual void linear(const LinearArgs& args) = 0;
  virtual void qk_rope_kv(const QkRopeKvArgs& args) = 0;
  virtual void attention(const AttentionArgs& args) = 0;
  /// qk_rope_kv(), then attention() of the same batch: what every layer does. A backend may do both in one go, and then
  /// leaves q, too, in an unspecified state.
  virtual void rope_attention(const QkRopeKvArgs& rope, const AttentionArgs& args) {
    qk_rope_kv(rope);
    attention(args);
  }
  virtual void softcap(const SoftcapArgs& args) = 0;
  virtual void sample(const SampleArgs& args) = 0;
  /// Whether tokens are drawn here unless somebody asks for it otherwise, or on the host, from downloaded logits.
  virtual bool draws_tokens() const { return false; }

  /// Host copies; a backend on the host may hand out the same pointer. upload() is ordered before later ops;
  /// download() waits for earlier ones.
  virtual void upload(void* dst, const void* src, uint64_t bytes) = 0;
  virtual void download(void* dst, const void* src, uint64_t bytes) = 0;
  /// mark() names the point after the ops called so far, wait() comes back when the device is past it. A slot, of
  /// kMarkSlots, is marked again only when nobody waits for it.
  static constexpr int kMarkSlots = 2;
  virtual void mark([[maybe_unused]] int slot) {}
  virtual void wait([[maybe_unused]] int slot) {}
  virtual void copy_kv_block(const KvLayerView& cache, int from, int to) = 0;

  virtual std::vector<Verdict> explain_linear(const LinearQuery& query) const = 0;
  virtual std::vector<Verdict> explain_attention(const AttentionQuery& query) const = 0;
  virtual std::map<std::string, int64_t> launches() const = 0;   // kernel name -> times run
  virtual std::map<std::string, OpProfile> profile() const = 0;  // op class -> figures; empty unless profiling
};

struct BackendOptions {
  const Settings* settings;  // outlives the backend
  int num_threads = 0;       // CPU: 0 = one a physical core
  std::string force_isa;     // CPU: "", "reference", "avx2", "avx512": tests and comparisons
  std::string force_linear;  // name of the only linear candidate allowed; a diagnostic for tests
};
std::unique_ptr<Backend> make_cpu_backend(const BackendOptions& options);
/// cuda/ defines it where CUDA was built in, exec/no_cuda.cpp where not: there it throws `unsupported`.
std::unique_ptr<Backend> make_cuda_backend(const BackendOptions& options, int device);
/// Empty where that CUDA device can be used, else one line why not.
std::string why_no_cuda(int device = 0);

/// A CUDA device as people ask about it. Versions are CUDA's, as 1000 * major + 10 * minor.
struct CudaDevice {
  int index = 0;
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int driver_version = 0, runtime_version = 0;
  std::string architectures;  // that this build has kernels for: "90a,120a"
  uint64_t total_bytes = 0, free_bytes = 0;
  std::string why_not;  // one line, empty where it can be used
};
/// Empty where there is no driver, no device, or no CUDA in this build.
std::vector<CudaDevice> cuda_devices();
/// Bytes a second that a kernel reads from the device's memory; takes 2 GiB and some milliseconds.
double cuda_read_bandwidth(int device);

}  // namespace imp
