#include <doctest/doctest.h>

#include "backend/attention_ops.h"
#include "core/error.h"

// Which attention kernel is taken, and what is said about the others. Runs on every machine.

using namespace imp;
using namespace imp::cuda;

namespace {

AttentionProblem prompt(int tokens, int head_dim = 128) {
  return {.num_sequences = 1,
          .max_query_len = tokens,
          .max_context_len = tokens,
          .num_heads = 32,
          .num_kv_heads = 8,
          .head_dim = head_dim,
          .sliding_window = 0,
          .num_counters = 4096,
          .capability = 120};
}
AttentionProblem decode(int sequences, int context) {
  AttentionProblem problem = prompt(1);
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

}  // namespace

TEST_CASE("16 query rows a kv head are decode, 17 are not") {
  CHECK(taken(decode(4, 1000)) == "attention_decode");
  CHECK(taken(prompt(4)) == "attention_decode");  // 4 tokens x 4 heads of the group
  CHECK(taken(prompt(5)) == "attention_prefill");
  CHECK(reason(prompt(5), "attention_decode") == "more than 16 query rows a kv head");
  CHECK(taken(decode(512, 100)) == "attention_decode");
  CHECK(taken(decode(513, 100)) == "attention_prefill");
  CHECK(reason(decode(513, 100), "attention_decode") == "more sequences times kv heads than counters");
}

TEST_CASE("wgmma serves the widths it has, on sm_90 alone") {
  for (int head_dim : {64, 128, 256}) {
    AttentionProblem problem = prompt(100, head_dim);
    CHECK(taken(problem) == "attention_prefill");
    CHECK(reason(problem, "attention_wgmma") == "wgmma is an instruction of sm_90a alone");
    problem.capability = 90;
    CHECK(taken(problem) == "attention_wgmma");
    problem.head_dim = 96;
    CHECK(taken(problem) == "attention_prefill");
    CHECK(reason(problem, "attention_wgmma") == "head_dim is not 64, 128 or 256");
  }
}

TEST_CASE("a head_dim without an instance: refused by every kernel, and by the load with a way out") {
  CHECK(reason(prompt(100, 112), "attention_prefill") == "no instance for this head_dim");
  CHECK(reason(decode(1, 9), "attention_decode") == "");
  CHECK_THROWS_AS(taken(prompt(100, 112)), Error);

  ModelSpec spec;
  spec.architecture = "llama";
  spec.layers.resize(3);
  for (LayerSpec& layer : spec.layers) layer.attention.head_dim = 128;
  CHECK_NOTHROW(check_attention(spec));
  spec.layers[2].attention.head_dim = 112;
  try {
    check_attention(spec);
    FAIL("took heads of 112");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::unsupported);
    CHECK(std::string(error.what()) ==
          "layer 2 of the model (llama) has attention heads of 112, and the CUDA kernels have 16, 32, 64, 80, 96, 128, "
          "256; use device \"cpu\"");
  }
}

TEST_CASE("explain asks the same table") {
  AttentionContext context = {};
  context.scratch.num_counters = 4096;
  const auto chosen = [&](AttentionQuery query) {
    for (const Verdict& verdict : explain_attention(context, query))
      if (verdict.chosen) return std::string(verdict.name);
    return std::string();
  };
  CHECK(chosen({1, 1, 1024, 32, 8, 128, 0}) == "attention_decode");
  CHECK(chosen({512, 512, 512, 32, 8, 128, 0}) == "attention_prefill");
  CHECK(chosen({512, 512, 512, 32, 8, 112, 0}) == "");
}
