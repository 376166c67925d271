#include "config/config.h"
#include "config/describe.h"
#include "config/options.h"
#include "config/value.h"
#include "core/error.h"

namespace imp {
namespace {

/// Every layer that trades exactness for speed is off.
const ImpliedSetting kDebugRaw[] = {
    {"runtime.deterministic_gemm", true},
    {"runtime.cuda_graphs", std::string("never")},
    {"runtime.prefill_graph", false},
    {"runtime.warmup", false},
    {"runtime.no_pdl", true},
    {"kv_cache.dtype", std::string("fp16")},
    {"kv_cache.fp8_auto_legacy", false},
    {"attention.fp8_prefill", std::string("never")},
    {"attention.mxfp4", std::string("never")},
    {"moe.no_expert_cache", true},
    {"gdn.ref_kernel", true},
    {"gemm.no_dp4a_gemv", true},
    {"gemm.no_dp4a_lm", true},
    {"gemm.no_mmvq", true},
    {"gemm.nvfp4_decode_all", false},
    {"gemm.nvfp4_lm_head", false},
    {"gemm.nvfp4_lm_head_gdn", false},
    {"gemm.nvfp4_ssm_proj", false},
    {"gemm.nvfp4_attn_proj", false},
    {"ffn.sparsity_threshold", 0.0},
};

/// The diagnostic that needs the host between two layers, or "".
std::string_view host_diagnostic(const Settings::Diagnostics& diagnostics) {
  if (diagnostics.debug_forward) return "diagnostics.debug_forward";
  if (!diagnostics.dump_hidden_dir.empty()) return "diagnostics.dump_hidden_dir";
  if (!diagnostics.dump_logits_dir.empty()) return "diagnostics.dump_logits_dir";
  if (!diagnostics.dump_routing_dir.empty()) return "diagnostics.dump_routing_dir";
  if (diagnostics.exit_layer >= 0) return "diagnostics.exit_layer";
  if (diagnostics.profile) return "diagnostics.profile";
  return "";
}

}  // namespace

std::span<const ImpliedSetting> debug_raw_settings() { return kDebugRaw; }

/// A value that somebody decided is never overruled silently: a contradiction is an error. A file line that only
/// repeats the default is taken for a copied example, overruled, and reported.
void Config::imply(std::string_view key, OptionValue value, std::string_view because) {
  const OptionRow& row = *find_option(key);
  const OptionValue current = read_option(row, settings_);
  if (current == value) return;
  const OptionSource& from = source(key);
  if (is_explicit(key) && current != OptionValue(std::string("auto"))) {
    const bool repeats_default = from.origin == Origin::file && current == default_value(row);
    if (!repeats_default) {
      fail(ErrorCode::invalid_argument, because, " needs ", key, " = ", format_value(value), ", but ", from.detail,
           " sets ", format_value(current), "; remove one of the two settings");
    }
    warn(cat(from.detail, ": ", key, " = ", format_value(current), " is overruled by ", because));
  }
  assign(key, std::move(value), Origin::implied, because);
}

void Config::resolve() {
  if (settings_.runtime.deterministic) imply("runtime.deterministic_gemm", true, "runtime.deterministic");
  if (settings_.runtime.debug_raw) {
    for (const ImpliedSetting& implied : kDebugRaw) imply(implied.key, implied.value, "runtime.debug_raw");
  }
  if (const std::string_view diagnostic = host_diagnostic(settings_.diagnostics); !diagnostic.empty()) {
    imply("runtime.cuda_graphs", std::string("never"), diagnostic);
  }
  if (settings_.attention.force_cublas_decode) {  // sizes of its products change from step to step
    imply("runtime.cuda_graphs", std::string("never"), "attention.force_cublas_decode");
  }
  const Settings::KvCache& kv_cache = settings_.kv_cache;
  if (kv_cache.dtype == "nvfp4" && settings_.attention.fp8_prefill == "auto") {
    imply("attention.fp8_prefill", std::string("never"), "kv_cache.dtype");
  }
  if (kv_cache.bitdecoding_qk && kv_cache.dtype != "nvfp4") {
    warn("kv_cache.bitdecoding_qk has no effect: it needs kv_cache.dtype = \"nvfp4\"");
  }
  if (kv_cache.allow_nondeterministic_fp8 && kv_cache.dtype != "fp8") {
    warn("kv_cache.allow_nondeterministic_fp8 has no effect: it needs kv_cache.dtype = \"fp8\"");
  }
  if (settings_.attention.fa2_pv_f16acc && !settings_.attention.fa2_f16acc) {
    assign("attention.fa2_pv_f16acc", false, Origin::implied, "attention.fa2_f16acc");
    warn("attention.fa2_pv_f16acc needs attention.fa2_f16acc and is off without it");
  }
  const Settings::Speculative& speculative = settings_.speculative;
  if (speculative.min_match > speculative.max_match) {
    fail(ErrorCode::invalid_argument, "speculative.min_match = ", speculative.min_match,
         " is above speculative.max_match = ", speculative.max_match, "; lower the one or raise the other");
  }
  if (speculative.burst > 0 && speculative.miss_burst > speculative.burst) {
    warn(cat("speculative.miss_burst = ", speculative.miss_burst, " is above speculative.burst and is brought down to ",
             speculative.burst));
    assign("speculative.miss_burst", speculative.burst, Origin::implied, "speculative.burst");
  }
  warn_of_odd_values();
}

void Config::warn_of_odd_values() {
  if (settings_.ffn.sparsity_threshold > 1) {
    warn("ffn.sparsity_threshold is above 1, which skips most of every FFN; 0.005 to 0.05 make sense");
  }
  if (settings_.moe.prefetch_top_k == 1 || settings_.moe.prefetch_top_k == 2) {
    warn("moe.prefetch_top_k of 1 or 2 seldom covers what a layer needs; 3 to 16 make sense");
  }
  if (settings_.server.prefix_pin_budget_pct > 90) {
    warn("server.prefix_pin_budget_pct above 90 leaves live requests little of the KV pool");
  }
}

}  // namespace imp
