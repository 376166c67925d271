#include <algorithm>

#include "backend/attention_ops.h"

namespace imp::cuda {
namespace {

constexpr int kMinKeysPerSplit = 128;

const char* reject_head_dim(const AttentionProblem& p) {
  return attention_head_dim_supported(p.head_dim) ? nullptr : "no instance for this head_dim";
}

const char* reject_decode(const AttentionProblem& p) {
  if (const char* reason = reject_head_dim(p)) return reason;
  if (p.query_rows() > kDecodeRows) return "more than 16 query rows a kv head";
  if (p.num_sequences * p.num_kv_heads > p.num_counters) return "more sequences times kv heads than counters";
  return nullptr;
}
void launch_decode(const AttentionContext& context, const AttentionArgs& args) {
  const int pairs = args.batch.num_sequences * args.cache.num_kv_heads;
  // Enough blocks to fill the card twice, each with keys enough to be worth its start.
  const int seen = args.sliding_window > 0 ? std::min(args.batch.max_context_len, args.sliding_window + 64)
                                           : args.batch.max_context_len;
  int splits = std::max(1, 2 * context.launch.num_sms / pairs);
  splits = std::min({splits, kMaxSplits, std::max(1, seen / kMinKeysPerSplit)});
  while (splits > 1 && decode_partial_floats(args.batch.num_sequences, args.cache.num_kv_heads, splits,
                                             args.cache.head_dim) > context.scratch.partial_floats)
    --splits;
  attention_decode(args, splits, context.scratch, context.launch);
}

const char* reject_wgmma(const AttentionProblem& p) {
  if (std::ranges::find(kWgmmaHeadDims, p.head_dim) == std::end(kWgmmaHeadDims))
    return "head_dim is not 64, 128 or 256";
  if (p.capability != 90) return "wgmma is an instruction of sm_90a alone";
  return nullptr;
}
void launch_wgmma(const AttentionContext& context, const AttentionArgs& args) { attention_wgmma(args, context.launch); }

const char* reject_prefill(const AttentionProblem& p) { return reject_head_dim(p); }
void launch_prefill(const AttentionContext& context, const AttentionArgs& args) {
  attention_prefill(args, context.launch);
}

constexpr Candidate<AttentionProblem, AttentionLaunch> kAttention[] = {
    {"attention_decode", reject_decode, launch_decode},
    {"attention_wgmma", reject_wgmma, launch_wgmma},
    {"attention_prefill", reject_prefill, launch_prefill},
};
constexpr KernelTable<AttentionProblem, AttentionLaunch> kAttentionTable{"attention", kAttention};

}  // namespace

const KernelTable<AttentionProblem, AttentionLaunch>& attention_table() { return kAttentionTable; }

void run_attention(const AttentionContext& context, const AttentionArgs& args) {
  if (args.q.rows == 0) return;
  const AttentionProblem problem = {.num_sequences = args.batch.num_sequences,
                                    .max_query_len = args.batch.max_query_len,
                                    .max_context_len = args.batch.max_context_len,
                                    .num_heads = args.num_heads,
                                    .num_kv_heads = args.cache.num_kv_heads,
                                    .head_dim = args.cache.head_dim,
                                    .sliding_window = args.sliding_window,
                                    .num_counters = context.scratch.num_counters,
                                    .capability = context.capability};
  kAttentionTable.select(problem).launch(context, args);
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
       .capability = context.capability});
}

void check_attention(const ModelSpec& spec) {
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const int head_dim = spec.layers[i].attention.head_dim;
    if (attention_head_dim_supported(head_dim)) continue;
    std::string known;
    for (int width : kAttentionHeadDims) known += cat(known.empty() ? "" : ", ", width);
    fail(ErrorCode::unsupported, "layer ", i, " of the model (", spec.architecture, ") has attention heads of ",
         head_dim, ", and the CUDA kernels have ", known, "; use device \"cpu\"");
  }
}

}  // namespace imp::cuda
