#include <algorithm>
#include <cmath>

#include "attention/attention_decode.h"
#include "attention/head_widths.h"
#include "backend/attention_ops.h"
#include "config/config.h"

namespace imp::cuda {
namespace {

const char* reject_head_dim(const AttentionProblem& p) {
  return head_width(p.head_dim) ? nullptr : "no instance for this head_dim";
}

bool is_cublas_decode(const AttentionProblem& p) { return p.switches.cublas_decode && p.max_query_len == 1; }
const char* reject_cublas_decode(const AttentionProblem& p) {
  if (const char* reason = reject_head_dim(p)) return reason;
  if (!p.switches.cublas_decode) return "attention.force_cublas_decode is false";
  return p.max_query_len == 1 ? nullptr : "more than one token a sequence";
}
void launch_cublas_decode(const AttentionContext& context, const AttentionArgs& args) {
  cublas_decode(args, context.cublas_decode, *context.products, context.launch);
}

const char* reject_decode(const AttentionProblem& p) {
  if (const char* reason = reject_head_dim(p)) return reason;
  if (is_cublas_decode(p)) return "attention.force_cublas_decode is true";
  if (p.query_rows() > kDecodeRows) return "more than 16 query rows a kv head";
  if (p.num_sequences * p.num_kv_heads > p.num_counters) return "more sequences times kv heads than counters";
  return nullptr;
}
template <bool kAhead>
const char* reject_plain_decode(const AttentionProblem& p) {
  if (p.switches.decode_ahead != kAhead)
    return kAhead ? "attention.splitk_pipe is false" : "attention.splitk_pipe is true";
  return reject_decode(p);
}
template <bool kAhead>
const char* reject_rope_decode(const AttentionProblem& p) {
  if (!p.with_rope) return "q and k come ready";
  if (!p.switches.rope_in_decode) return "attention.no_qknorm_fused is true";
  return reject_plain_decode<kAhead>(p);
}
template <bool kAhead>
void launch_rope_decode(const AttentionContext& context, const QkRopeKvArgs* rope, const AttentionArgs& args) {
  rope_attention_decode(*rope, args, plan_decode(args, kAhead, context.scratch, context.launch), context.scratch,
                        context.launch);
}
template <bool kAhead>
void launch_decode(const AttentionContext& context, const AttentionArgs& args) {
  attention_decode(args, plan_decode(args, kAhead, context.scratch, context.launch), context.scratch, context.launch);
}

/// For kernels that take q and k ready; run_attention() never gives them `rope`.
template <auto kLaunch>
void ready(const AttentionContext& context, const QkRopeKvArgs*, const AttentionArgs& args) {
  kLaunch(context, args);
}

bool is_fa2(const AttentionProblem& p) { return p.head_dim == 128 && p.switches.fa2; }
bool is_fused(const AttentionProblem& p) { return is_fa2(p) || p.switches.tiled; }

/// Below the threshold: the length from which attention is always fused. A chunk after a long context is measured by
/// its own matrix instead of that of a whole prompt; contexts are planned in powers of two, hence the factor.
bool is_short(const AttentionProblem& p) {
  const AttentionSwitches& s = p.switches;
  const int64_t derived = derived_threshold(s, p.num_heads);
  const int64_t tokens = p.max_query_len, context = p.max_context_len;
  if (s.threshold >= 0) return tokens < std::min(s.threshold, derived);
  if (context > 2 * tokens) return 2 * p.num_heads * tokens * context <= s.scores_bytes;
  return tokens < derived;
}

const char* reject_scores(const AttentionProblem& p) {
  if (const char* reason = reject_head_dim(p)) return reason;
  if (p.switches.scores_bytes == 0) return "attention.attn_scores_mib is 0";
  if (!is_fused(p)) return nullptr;
  if (!is_short(p)) return "not below attention.fmha_prefill_threshold";
  if (is_fa2(p)) return p.switches.fa2_short ? "attention.fa2_fp16qk fuses short prompts too" : nullptr;
  if (p.switches.tiled_short) return "attention.fmha_sm120 is \"on\": fused at every length";
  if (p.switches.threshold < 0) return "slower than fused attention at every length";
  return nullptr;
}
void launch_scores(const AttentionContext& context, const AttentionArgs& args) {
  attention_scores(args, context.scores, context.launch);
}

const char* reject_fa2(const AttentionProblem& p) {
  if (const char* reason = reject_head_dim(p)) return reason;
  if (p.head_dim != 128) return "head_dim is not 128";
  if (!p.switches.fa2) return "attention.fmha_fa2 is \"never\"";
  return nullptr;
}
const char* reject_tiled(const AttentionProblem& p) {
  if (const char* reason = reject_head_dim(p)) return reason;
  if (!p.switches.tiled) return "attention.fmha_sm120 is \"never\"";
  return nullptr;
}
void launch_tiled(const AttentionContext& context, const AttentionArgs& args) { attention_tiled(args, context.launch); }

const char* reject_wgmma(const AttentionProblem& p) {
  if (const char* reason = reject_head_dim(p)) return reason;
  if (!head_width(p.head_dim)->wgmma) return "no wgmma instance for this head_dim";
  if (p.capability != 90) return "wgmma is an instruction of sm_90a alone";
  return p.head_dim == 128 ? reject_fa2(p) : reject_tiled(p);
}
void launch_wgmma(const AttentionContext& context, const AttentionArgs& args) { attention_wgmma(args, context.launch); }

/// GeForce adds up f16 products twice as fast in f16 as in fp32; elsewhere that would cost accuracy and bring nothing.
bool half_sums_are_faster(int capability) {
  return capability == 86 || capability == 89 || capability == 120 || capability == 121;
}
const char* reject_half_scores(const AttentionProblem& p) {
  if (const char* reason = reject_fa2(p)) return reason;
  if (!p.switches.half_scores) return "attention.fa2_f16acc is false";
  if (!half_sums_are_faster(p.capability)) return "sums in fp32 are as fast on this device";
  return nullptr;
}
const char* reject_half_output(const AttentionProblem& p) {
  if (const char* reason = reject_half_scores(p)) return reason;
  return p.switches.half_output ? nullptr : "attention.fa2_pv_f16acc is false";
}
template <Fa2Sums kSums>
void launch_fa2(const AttentionContext& context, const AttentionArgs& args) {
  attention_fa2(args, kSums, context.launch);
}

constexpr bool kTakesRope = true;
constexpr Candidate<AttentionProblem, AttentionKernel> kAttention[] = {
    {"cublas_decode", reject_cublas_decode, {ready<launch_cublas_decode>}},
    {"rope_attention_decode", reject_rope_decode<true>, {launch_rope_decode<true>, kTakesRope}},
    {"rope_attention_decode_unpiped", reject_rope_decode<false>, {launch_rope_decode<false>, kTakesRope}},
    {"attention_decode", reject_plain_decode<true>, {ready<launch_decode<true>>}},
    {"attention_decode_unpiped", reject_plain_decode<false>, {ready<launch_decode<false>>}},
    {"attention_scores", reject_scores, {ready<launch_scores>}},
    {"attention_wgmma", reject_wgmma, {ready<launch_wgmma>}},
    {"attention_fa2_accf16_pv", reject_half_output, {ready<launch_fa2<Fa2Sums::f16>>}},
    {"attention_fa2_accf16", reject_half_scores, {ready<launch_fa2<Fa2Sums::f16_scores>>}},
    {"attention_fa2", reject_fa2, {ready<launch_fa2<Fa2Sums::fp32>>}},
    {"attention_tiled", reject_tiled, {ready<launch_tiled>}},
};
constexpr KernelTable<AttentionProblem, AttentionKernel> kAttentionTable{"attention", kAttention};

std::string known_head_dims() {
  std::string text;
  for (const HeadWidth& width : head_widths()) text += cat(text.empty() ? "" : ", ", width.head_dim);
  return text;
}

AttentionProblem problem_of(const AttentionContext& context, const AttentionArgs& args, bool with_rope) {
  return {.num_sequences = args.batch.num_sequences,
          .max_query_len = args.batch.max_query_len,
          .max_context_len = args.batch.max_context_len,
          .num_heads = args.num_heads,
          .num_kv_heads = args.cache.num_kv_heads,
          .head_dim = args.cache.head_dim,
          .sliding_window = args.sliding_window,
          .num_counters = context.scratch.num_counters,
          .capability = context.capability,
          .switches = context.switches,
          .with_rope = with_rope};
}

}  // namespace

AttentionSwitches attention_switches(const Settings& settings) {
  const Settings::Attention& keys = settings.attention;
  return {.fa2 = keys.fmha_fa2 != "never",
          .tiled = keys.fmha_sm120 != "never",
          .tiled_short = keys.fmha_sm120 == "on",
          .fa2_short = keys.fa2_fp16qk != "never",
          .half_scores = keys.fa2_f16acc,
          .half_output = keys.fa2_pv_f16acc,
          .threshold = keys.fmha_prefill_threshold,
          .scores_bytes = std::min<int64_t>(keys.attn_scores_mib, 1 << 24) << 20,
          .rope_in_decode = !keys.no_qknorm_fused,
          .decode_ahead = keys.splitk_pipe,
          .cublas_decode = keys.force_cublas_decode,
          .max_seq_len = settings.runtime.max_seq_len};
}

int64_t derived_threshold(const AttentionSwitches& switches, int num_heads) {
  return static_cast<int64_t>(std::sqrt(static_cast<double>(switches.scores_bytes / (2 * num_heads)))) + 1;
}

const KernelTable<AttentionProblem, AttentionKernel>& attention_table() { return kAttentionTable; }

void run_attention(const AttentionContext& context, const QkRopeKvArgs* rope, const AttentionArgs& args) {
  if (args.q.rows == 0) return;
  kAttentionTable.select(problem_of(context, args, rope != nullptr)).launch.run(context, rope, args);
}

bool rope_runs_in_attention(const AttentionContext& context, const AttentionArgs& args) {
  return kAttentionTable.select(problem_of(context, args, true)).launch.takes_rope;
}

std::vector<Verdict> explain_attention(const AttentionContext& context, const AttentionQuery& query) {
  return kAttentionTable.explain(
      {.num_sequences = static_cast<int>(std::max<int64_t>(1, query.tokens / std::max(1, query.max_query_len))),
       .max_query_len = query.max_query_len,
       .max_context_len = query.max_context_len,
       .num_heads = query.num_heads,
       .num_kv_heads = std::max(1, query.num_kv_heads),
       .head_dim = query.head_dim,
       .sliding_window = query.sliding_window,
       .num_counters = context.scratch.num_counters,
       .capability = context.capability,
       .switches = context.switches,
       .with_rope = true});
}

AttentionPlan plan_attention(const ModelSpec& spec, const AttentionSwitches& switches, int capability,
                             int64_t free_bytes) {
  AttentionPlan plan;
  plan.switches = switches;
  const int64_t longest = switches.max_seq_len > 0 ? switches.max_seq_len : std::max(1, spec.context_length);
  bool any_scores = false;
  int most_heads = 1;
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const AttentionSpec& layer = spec.layers[i].attention;
    if (!head_width(layer.head_dim))
      fail(ErrorCode::unsupported, "layer ", i, " of the model (", spec.architecture, ") has attention heads of ",
           layer.head_dim, ", and the CUDA kernels have ", known_head_dims(), "; use device \"cpu\"");
    const AttentionProblem shortest = {.num_sequences = 1,
                                       .max_query_len = 1,
                                       .max_context_len = 1,
                                       .num_heads = layer.num_heads,
                                       .num_kv_heads = std::max(1, layer.num_kv_heads),
                                       .head_dim = layer.head_dim,
                                       .sliding_window = layer.sliding_window,
                                       .num_counters = 0,
                                       .capability = capability,
                                       .switches = switches};
    if (!is_fused(shortest) && switches.scores_bytes / (2 * shortest.num_kv_heads) < longest + 64)
      fail(ErrorCode::invalid_argument, "attention.fmha_fa2 and attention.fmha_sm120 leave layer ", i,
           " of the model no fused attention, and attention.attn_scores_mib = ", switches.scores_bytes >> 20,
           " is too little for any other at ", longest, " tokens; allow one of them, or raise it");
    any_scores = any_scores || !reject_scores(shortest);
    if (switches.cublas_decode)
      plan.cublas_decode_bytes =
          std::max(plan.cublas_decode_bytes,
                   cublas_decode_bytes(layer.num_heads, std::max(1, layer.num_kv_heads), layer.head_dim, longest));
    most_heads = std::max(most_heads, layer.num_heads);
  }
  if (!any_scores) return plan;
  if (switches.scores_bytes > free_bytes / 4) {
    plan.switches.scores_bytes = free_bytes / 4;
    plan.sentences.push_back(cat("attention.attn_scores_mib = ", switches.scores_bytes >> 20, " is taken as ",
                                 plan.switches.scores_bytes >> 20, ": a quarter of the free memory"));
  }
  const int64_t derived = derived_threshold(plan.switches, most_heads);
  if (switches.threshold > derived)
    plan.sentences.push_back(cat("attention.fmha_prefill_threshold = ", switches.threshold, " is taken as ", derived,
                                 ": attention.attn_scores_mib holds the scores of no longer prompt"));
  plan.scores_bytes = plan.switches.scores_bytes;
  return plan;
}

}  // namespace imp::cuda
