#include <doctest/doctest.h>

#include "backend/attention_ops.h"
#include "config/config.h"
#include "core/error.h"

// Which attention kernel is taken, and what is said about the others. Runs on every machine.

using namespace imp;
using namespace imp::cuda;

namespace {

/// Settings as a user writes them.
AttentionSwitches with(const std::vector<std::pair<std::string, std::string>>& keys) {
  Config config;
  for (const auto& [key, value] : keys) config.set("attention." + key, value);
  config.resolve();
  return attention_switches(config.settings());
}

AttentionProblem prompt(int tokens, int head_dim, int capability, const AttentionSwitches& switches = {}) {
  return {.num_sequences = 1,
          .max_query_len = tokens,
          .max_context_len = tokens,
          .num_heads = 32,
          .num_kv_heads = 8,
          .head_dim = head_dim,
          .sliding_window = 0,
          .num_counters = 4096,
          .capability = capability,
          .switches = switches};
}
AttentionProblem decode(int sequences, int context) {
  AttentionProblem problem = prompt(1, 128, 90);
  problem.num_sequences = sequences;
  problem.max_context_len = context;
  return problem;
}

std::string_view taken(const AttentionProblem& problem) { return attention_table().select(problem).name; }

std::string reason(const AttentionProblem& problem, std::string_view name) {
  for (const Verdict& verdict : attention_table().explain(problem))
    if (verdict.name == name) return verdict.reason ? verdict.reason : "";
  return "no such kernel";
}

ModelSpec model(int head_dim, int num_layers = 3) {
  ModelSpec spec;
  spec.architecture = "llama";
  spec.context_length = 8192;
  spec.layers.resize(static_cast<size_t>(num_layers));
  for (LayerSpec& layer : spec.layers) {
    layer.attention.num_heads = 32, layer.attention.num_kv_heads = 8;
    layer.attention.head_dim = head_dim;
  }
  return spec;
}
constexpr int64_t kFree = int64_t{100} << 30;

std::string refusal(const ModelSpec& spec, const AttentionSwitches& switches) {
  try {
    plan_attention(spec, switches, 90, kFree);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("16 query rows a kv head are decode, 17 are not") {
  CHECK(taken(decode(4, 1000)) == "attention_decode");
  CHECK(taken(prompt(4, 128, 90)) == "attention_decode");  // 4 tokens x 4 heads of the group
  CHECK(taken(prompt(5, 128, 90)) == "attention_wgmma");
  CHECK(reason(prompt(5, 128, 90), "attention_decode") == "more than 16 query rows a kv head");
  CHECK(taken(decode(512, 100)) == "attention_decode");
  CHECK(taken(decode(513, 100)) == "attention_wgmma");
  CHECK(reason(decode(513, 100), "attention_decode") == "more sequences times kv heads than counters");
}

TEST_CASE(
    "decode rotates on the way unless a setting or the caller has it done before; one page at a time on request") {
  AttentionProblem problem = decode(1, 500);
  CHECK(taken(problem) == "attention_decode");
  CHECK(reason(problem, "rope_attention_decode") == "q and k come ready");
  problem.with_rope = true;
  CHECK(taken(problem) == "rope_attention_decode");
  problem.switches = with({{"no_qknorm_fused", "true"}});
  CHECK(taken(problem) == "attention_decode");
  CHECK(reason(problem, "rope_attention_decode") == "attention.no_qknorm_fused is true");
  problem.switches = with({{"no_qknorm_fused", "true"}, {"splitk_pipe", "false"}});
  CHECK(taken(problem) == "attention_decode_unpiped");
  CHECK(reason(problem, "attention_decode") == "attention.splitk_pipe is false");
  problem.switches = with({{"splitk_pipe", "false"}});
  CHECK(taken(problem) == "rope_attention_decode_unpiped");
}

TEST_CASE(
    "attention.force_cublas_decode: library products for one token a sequence, and memory for the longest context") {
  AttentionProblem problem = decode(3, 40000);
  problem.with_rope = true;
  CHECK(reason(problem, "cublas_decode") == "attention.force_cublas_decode is false");
  problem.switches = with({{"force_cublas_decode", "true"}});
  CHECK(taken(problem) == "cublas_decode");
  for (const char* paged : {"rope_attention_decode", "attention_decode"})
    CHECK(reason(problem, paged) == "attention.force_cublas_decode is true");
  problem.max_query_len = 2;
  CHECK(taken(problem) == "rope_attention_decode");
  CHECK(reason(problem, "cublas_decode") == "more than one token a sequence");

  CHECK(plan_attention(model(128), with({}), 90, kFree).cublas_decode_bytes == 0);
  const AttentionPlan plan = plan_attention(model(128), problem.switches, 90, kFree);
  CHECK(plan.cublas_decode_bytes == cublas_decode_bytes(32, 8, 128, 8192));
  CHECK(plan.cublas_decode_bytes >= 8192 * (8 * 128 * 2 * 2 + 32 * (4 + 2)));
  Config config;
  config.set("attention.force_cublas_decode", "true");
  config.set("runtime.max_seq_len", "20000");  // more than the model was trained for
  CHECK(plan_attention(model(128), attention_switches(config.settings()), 90, kFree).cublas_decode_bytes ==
        cublas_decode_bytes(32, 8, 128, 20000));
}

TEST_CASE("prefill by default: wgmma on sm_90, mma.sync elsewhere, always fused") {
  const AttentionSwitches defaults = with({});
  for (int tokens : {20, 300, 2508, 2509, 100000}) {
    for (int head_dim : {64, 128, 256}) CHECK(taken(prompt(tokens, head_dim, 90, defaults)) == "attention_wgmma");
    for (int head_dim : {16, 32, 80, 96}) CHECK(taken(prompt(tokens, head_dim, 90, defaults)) == "attention_tiled");
    for (int head_dim : {64, 256}) CHECK(taken(prompt(tokens, head_dim, 120, defaults)) == "attention_tiled");
    CHECK(taken(prompt(tokens, 128, 120, defaults)) == "attention_fa2_accf16_pv");
    CHECK(taken(prompt(tokens, 128, 80, defaults)) == "attention_fa2");
  }
  CHECK(reason(prompt(300, 128, 120), "attention_wgmma") == "wgmma is an instruction of sm_90a alone");
  CHECK(reason(prompt(300, 96, 90), "attention_wgmma") == "no wgmma instance for this head_dim");
  CHECK(reason(prompt(300, 64, 90), "attention_scores") == "slower than fused attention at every length");
  CHECK(reason(prompt(300, 64, 90), "attention_fa2") == "head_dim is not 128");
}

TEST_CASE("attention.fmha_fa2 and fmha_sm120 take their families away, wgmma included") {
  const AttentionSwitches no_fa2 = with({{"fmha_fa2", "never"}}), no_tiled = with({{"fmha_sm120", "never"}}),
                          neither = with({{"fmha_fa2", "never"}, {"fmha_sm120", "never"}});
  for (int capability : {80, 90, 120}) {
    CHECK(taken(prompt(5000, 128, capability, no_fa2)) == "attention_tiled");
    CHECK(taken(prompt(5000, 64, capability, no_tiled)) == "attention_scores");
    CHECK(taken(prompt(5000, 128, capability, neither)) == "attention_scores");
  }
  CHECK(reason(prompt(5000, 128, 90, no_fa2), "attention_wgmma") == "attention.fmha_fa2 is \"never\"");
  CHECK(reason(prompt(5000, 128, 120, no_fa2), "attention_fa2") == "attention.fmha_fa2 is \"never\"");
  CHECK(reason(prompt(5000, 64, 90, no_tiled), "attention_wgmma") == "attention.fmha_sm120 is \"never\"");
  CHECK(taken(prompt(5000, 64, 90, no_fa2)) == "attention_wgmma");
  CHECK(taken(prompt(5000, 128, 90, no_tiled)) == "attention_wgmma");
}

TEST_CASE("attention.fa2_f16acc and fa2_pv_f16acc choose the variant where it is faster, and only there") {
  const AttentionSwitches no_pv = with({{"fa2_pv_f16acc", "false"}}), none = with({{"fa2_f16acc", "false"}});
  CHECK_FALSE(none.half_output);  // needs the other
  for (int capability : {86, 89, 120, 121}) {
    CHECK(taken(prompt(5000, 128, capability)) == "attention_fa2_accf16_pv");
    CHECK(taken(prompt(5000, 128, capability, no_pv)) == "attention_fa2_accf16");
    CHECK(taken(prompt(5000, 128, capability, none)) == "attention_fa2");
  }
  CHECK(reason(prompt(5000, 128, 120, no_pv), "attention_fa2_accf16_pv") == "attention.fa2_pv_f16acc is false");
  CHECK(reason(prompt(5000, 128, 120, none), "attention_fa2_accf16") == "attention.fa2_f16acc is false");
  for (int capability : {80, 90, 100})
    CHECK(reason(prompt(5000, 128, capability), "attention_fa2_accf16") == "sums in fp32 are as fast on this device");
}

TEST_CASE("attention.fmha_prefill_threshold: the length from which attention is fused") {
  const AttentionSwitches at_256 = with({{"fmha_prefill_threshold", "256"}});
  CHECK(taken(prompt(255, 64, 90, at_256)) == "attention_scores");
  CHECK(taken(prompt(256, 64, 90, at_256)) == "attention_wgmma");
  CHECK(reason(prompt(256, 64, 90, at_256), "attention_scores") == "not below attention.fmha_prefill_threshold");
  // "on" means at every length, and heads of 128 have a switch of their own.
  const AttentionSwitches on = with({{"fmha_prefill_threshold", "256"}, {"fmha_sm120", "on"}});
  CHECK(taken(prompt(255, 64, 90, on)) == "attention_wgmma");
  CHECK(reason(prompt(255, 64, 90, on), "attention_scores") == "attention.fmha_sm120 is \"on\": fused at every length");
  CHECK(taken(prompt(255, 128, 90, at_256)) == "attention_wgmma");
  CHECK(reason(prompt(255, 128, 90, at_256), "attention_scores") == "attention.fa2_fp16qk fuses short prompts too");
  const AttentionSwitches not_short = with({{"fmha_prefill_threshold", "256"}, {"fa2_fp16qk", "never"}});
  CHECK(taken(prompt(255, 128, 90, not_short)) == "attention_scores");
  CHECK(taken(prompt(256, 128, 90, not_short)) == "attention_wgmma");
  const AttentionSwitches always = with({{"fmha_prefill_threshold", "0"}, {"fa2_fp16qk", "never"}});
  for (int head_dim : {64, 128}) CHECK(taken(prompt(20, head_dim, 90, always)) == "attention_wgmma");
}

TEST_CASE("attention.attn_scores_mib derives the threshold") {
  CHECK(derived_threshold(with({}), 32) == 2509);
  const AttentionSwitches derived = with({{"fa2_fp16qk", "never"}});
  CHECK(taken(prompt(2508, 128, 90, derived)) == "attention_scores");
  CHECK(taken(prompt(2509, 128, 90, derived)) == "attention_wgmma");
  const AttentionSwitches small = with({{"fa2_fp16qk", "never"}, {"attn_scores_mib", "96"}});
  CHECK(taken(prompt(1254, 128, 90, small)) == "attention_scores");
  CHECK(taken(prompt(1255, 128, 90, small)) == "attention_wgmma");
  // A chunk after a context has n_q * n_kv scores: 384 MiB are 512 tokens against 12288 keys.
  AttentionProblem chunk = prompt(512, 128, 90, derived);
  chunk.max_context_len = 12288;
  CHECK(taken(chunk) == "attention_scores");
  chunk.max_query_len = 513;
  CHECK(taken(chunk) == "attention_wgmma");
  // An explicit threshold gives way to the memory.
  AttentionSwitches far = with({{"fmha_prefill_threshold", "100000"}});
  CHECK(taken(prompt(2508, 64, 90, far)) == "attention_scores");
  CHECK(taken(prompt(2509, 64, 90, far)) == "attention_wgmma");
  CHECK(
      plan_attention(model(64), far, 90, kFree).sentences ==
      std::vector<std::string>{"attention.fmha_prefill_threshold = 100000 is taken as 2509: attention.attn_scores_mib "
                               "holds the scores of no longer prompt"});
  const AttentionSwitches none = with({{"fa2_fp16qk", "never"}, {"attn_scores_mib", "0"}});
  CHECK(taken(prompt(20, 128, 90, none)) == "attention_wgmma");
  CHECK(reason(prompt(20, 128, 90, none), "attention_scores") == "attention.attn_scores_mib is 0");
}

TEST_CASE("memory for scores is planned where they can be reached, and bounded by what is free") {
  const int64_t whole = int64_t{384} << 20;
  CHECK(plan_attention(model(128), with({}), 90, kFree).scores_bytes == 0);
  CHECK(plan_attention(model(64), with({}), 90, kFree).scores_bytes == 0);
  CHECK(plan_attention(model(128), with({{"fa2_fp16qk", "never"}}), 90, kFree).scores_bytes == whole);
  CHECK(plan_attention(model(64), with({{"fa2_fp16qk", "never"}}), 90, kFree).scores_bytes == 0);
  CHECK(plan_attention(model(64), with({{"fmha_sm120", "never"}}), 90, kFree).scores_bytes == whole);
  CHECK(plan_attention(model(64), with({{"fmha_prefill_threshold", "100"}}), 90, kFree).scores_bytes == whole);
  const AttentionPlan bounded = plan_attention(model(128), with({{"fa2_fp16qk", "never"}}), 90, whole);
  CHECK(bounded.scores_bytes == whole / 4);
  CHECK(bounded.switches.scores_bytes == whole / 4);
  CHECK(bounded.sentences ==
        std::vector<std::string>{"attention.attn_scores_mib = 384 is taken as 96: a quarter of the free memory"});
}

TEST_CASE("a model that no kernel can serve is refused at load, with a way out") {
  CHECK(reason(prompt(100, 112, 90), "attention_tiled") == "no instance for this head_dim");
  CHECK_THROWS_AS(taken(prompt(100, 112, 90)), Error);
  CHECK(refusal(model(128), with({})) == "");
  ModelSpec odd = model(128);
  odd.layers[2].attention.head_dim = 112;
  CHECK(refusal(odd, with({})) ==
        "layer 2 of the model (llama) has attention heads of 112, and the CUDA kernels have 16, 32, 64, 80, 96, 128, "
        "256; use device \"cpu\"");
  CHECK(refusal(model(64), with({{"fmha_sm120", "never"}, {"attn_scores_mib", "0"}})) ==
        "attention.fmha_fa2 and attention.fmha_sm120 leave layer 0 of the model no fused attention, and "
        "attention.attn_scores_mib = 0 is too little for any other at 8192 tokens; allow one of them, or raise it");
  CHECK(refusal(model(128), with({{"fmha_sm120", "never"}, {"attn_scores_mib", "0"}})) == "");
}

TEST_CASE("explain asks the same table") {
  AttentionContext context = {};
  context.scratch.num_counters = 4096;
  context.capability = 90;
  const auto chosen = [&](AttentionQuery query) {
    for (const Verdict& verdict : explain_attention(context, query))
      if (verdict.chosen) return std::string(verdict.name);
    return std::string();
  };
  CHECK(chosen({1, 1, 1024, 32, 8, 128, 0}) == "rope_attention_decode");
  CHECK(chosen({512, 512, 512, 32, 8, 128, 0}) == "attention_wgmma");
  CHECK(chosen({512, 512, 512, 32, 8, 112, 0}) == "");
  context.switches = with({{"fmha_fa2", "never"}});
  CHECK(chosen({512, 512, 512, 32, 8, 128, 0}) == "attention_tiled");
}
