#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace imp {

using OptionValue = std::variant<bool, int64_t, double, std::string>;

/// Where an effective value came from, lowest precedence first (docs/configuration.md).
enum class Origin : uint8_t { default_value, environment, file, set, flag, api, implied, automatic };

/// "default", "env", "file", "set", "flag", "api", "implied" or "auto".
std::string_view origin_name(Origin origin);

struct OptionSource {
  Origin origin = Origin::default_value;
  std::string detail;  // "imp.conf:12", "IMP_DETERMINISTIC", "--set kv_cache.dtype=fp8", "runtime.deterministic", ""
};

/// All settings, resolved. Plain fields, one a key, grouped by section; the option table in options.cpp binds
/// each row to its field, so that nothing else lists the keys. Read-only once an Engine holds it.
struct Settings {
  struct Runtime {
    bool deterministic_gemm = false;
    bool deterministic = false;
    std::string cuda_graphs = "auto";
    std::string graph_capture_mode = "relaxed";
    bool prefill_graph = true;
    int64_t max_batch_size = 4;
    bool warmup = false;
    int64_t max_seq_len = 0;
    bool no_pdl = false;
    bool debug_raw = false;
    bool no_vision_graph = false;
  } runtime;
  struct KvCache {
    std::string dtype = "fp16";
    bool allow_nondeterministic_fp8 = false;
    bool fp8_auto_legacy = false;
    bool bitdecoding_qk = false;
    int64_t bitdecoding_residual_tokens = 0;
  } kv_cache;
  struct Attention {
    std::string fp8_prefill = "auto";
    std::string fp8_fmha = "never";
    std::string fmha_sm120 = "auto";
    std::string fmha_fa2 = "on";
    std::string fa2_fp16qk = "on";
    bool fa2_f16acc = true;
    bool fa2_pv_f16acc = true;
    int64_t fmha_prefill_threshold = -1;
    std::string mxfp4 = "auto";
    bool mxfp4_fp16_fallback = false;
    std::string mxfp4_fp16_cache_policy = "legacy";
    bool force_cublas_decode = false;
    bool no_qknorm_fused = false;
    bool splitk_pipe = true;
    bool gate_concat = false;
    int64_t attn_scores_mib = 384;
  } attention;
  struct Moe {
    int64_t expert_overhead_pct = 10;
    int64_t force_host_experts = 0;
    bool skip = false;
    bool force_fp16_sync = false;
    bool no_expert_cache = false;
    bool zero_workspace = false;
    bool no_shared_mlp = false;
    bool no_shexp_gate = false;
    bool no_cutlass3x = false;
    bool expert_cache_debug_parity = false;
    int64_t prefetch_top_k = 0;
    bool allow_graphs_under_offload = false;
    int64_t reserve_mib = 0;
    bool nvfp4_device_args = true;
    bool nvfp4_smallM = false;
    int64_t nvfp4_smallM_threshold = 64;
    int64_t mr_nr = 8;
  } moe;
  struct Gdn {
    bool fp32_scan = false;
    bool fp32_out = false;
    double norm_eps_override = 0.0;
    bool ref_kernel = false;
    bool vhead_reorder = false;
    bool chunkwise_scan = true;
    std::string layout_override;
  } gdn;
  struct Gemm {
    bool no_dp4a_gemv = false;
    bool no_dp4a_lm = false;
    bool no_mmvq = false;
    bool no_mmvq_q8_0 = false;
    bool nvfp4_decode_all = false;
    bool q4k_hmma_enabled = false;
    bool nvfp4_lm_head = true;
    bool nvfp4_lm_head_gdn = true;
    bool nvfp4_ssm_proj = false;
    bool nvfp4_attn_proj = false;
    bool nvfp4_moe_decode = true;
    std::string cublas_fp16_acc = "auto";
    bool q8_imma_enabled = true;
    bool moe_imma_prefill = true;
    bool q4k_imma_prefill = false;
  } gemm;
  struct Generation {
    bool no_logit_softcap = false;
    bool lm_dequant_fp16 = false;
    int64_t think_budget = 0;
    bool force_bos = false;
    bool no_ban = false;
    bool mtp_no_rope = false;
  } generation;
  struct Server {
    bool prefix_cache = true;
    int64_t prefix_pin_budget_pct = 25;
    bool green_contexts = false;
  } server;
  struct Bench {
    bool generate = false;
  } bench;
  struct Paths {
    std::string mmproj;
  } paths;
  struct Speculative {
    bool ngram = false;
    int64_t k = 16;
    int64_t min_match = 6;
    int64_t max_match = 12;
    int64_t give_up_after = 64;
    int64_t burst = 128;
    int64_t miss_burst = 8;
  } speculative;
  struct Ffn {
    bool sparsity_probe = false;
    double sparsity_threshold = 0.0;
  } ffn;
  struct Diagnostics {
    bool debug_forward = false;
    bool debug_template = false;
    std::string dump_hidden_dir;
    std::string dump_logits_dir;
    std::string dump_routing_dir;
    bool dump_tokens = false;
    int64_t exit_layer = -1;
    bool profile = false;
    bool graph_diag = false;
    std::string graph_dump_dir;
    bool nvfp4_force_dequant = false;
    bool log_gemm_algo = false;
    bool mtp_pattern_log = false;
    bool mtp_prenorm_h = false;
    bool audit_nvfp4_scales = false;
  } diagnostics;
};

/// Settings with the source of each value. Errors of every method are invalid_argument, with file:line or the
/// text of the override, the allowed values, and "did you mean".
class Config {
 public:
  Config();  // the defaults

  static Config defaults_for_embedders();  // prefix_cache unset counts as off
  /// File search (--config, $IMP_CONFIG, ./imp.conf, ~/.config/imp/imp.conf) over IMP_DETERMINISTIC.
  static Config load(const std::string& explicit_path = "");
  void load_file(const std::string& path);
  void load_text(std::string_view text, std::string_view file_name);
  void set(std::string_view key, std::string_view value, Origin origin = Origin::set, std::string_view detail = {});

  const Settings& settings() const { return settings_; }
  OptionValue get(std::string_view key) const;
  const OptionSource& source(std::string_view key) const;
  bool is_explicit(std::string_view key) const;  // set by file, --set, flag or api
  const std::vector<std::string>& warnings() const { return warnings_; }
  const std::string& file() const { return file_; }  // the one file read, "" if none

  void set_assignment(std::string_view text);  // one --set: "section.key=value", split at the first '='
  /// Strict mode: what was only a warning so far (unknown keys, duplicates, clamped values) becomes an error.
  void require_no_warnings() const;

  /// Applies deterministic => deterministic_gemm, debug_raw => ..., and the other rules that need no model
  /// (docs/configuration.md); recorded with Origin::implied.
  void resolve();
  /// The engine's own automatic decisions (max_seq_len reduced, ...), recorded with Origin::automatic.
  void set_automatic(std::string_view key, OptionValue value, std::string_view reason);

  std::string dump() const;     // as a file that load_text() reads back equal
  std::string to_json() const;  // key -> {value, origin, detail}

 private:
  void assign(std::string_view key, OptionValue value, Origin origin, std::string_view detail);
  void seed_from_environment();
  void imply(std::string_view key, OptionValue value, std::string_view because);
  void warn_of_odd_values();
  void warn(std::string text);

  Settings settings_;
  std::map<std::string, OptionSource, std::less<>> sources_;
  std::vector<std::string> warnings_;
  std::string file_;
};

}  // namespace imp
