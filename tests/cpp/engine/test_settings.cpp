#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <sstream>

#include "support/capture_stderr.h"
#include "support/engine_runs.h"
#include "support/temp_dir.h"

// Each key that this engine implements, flipped, with the change it makes.

using namespace imp;
using namespace imp::test;

namespace {

double effective(const Engine& engine, const std::string& key) {
  return report_number(engine.report_json(), {"effective", key, "value"});
}

float highest_magnitude(const std::vector<float>& logits) {
  float highest = 0;
  for (float logit : logits) highest = std::max(highest, std::abs(logit));
  return highest;
}

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

}  // namespace

TEST_CASE("runtime.max_seq_len sizes the cache") {
  Engine whole = make_engine(), small = make_engine({{"runtime.max_seq_len", "64"}});
  CHECK(effective(whole, "runtime.max_seq_len") == 256);
  CHECK(contains(whole.report_json(), "the model's context"));
  CHECK(effective(small, "runtime.max_seq_len") == 64);
  CHECK(report_number(small.report_json(), {"mem", "kv_pool"}) * 4 ==
        report_number(whole.report_json(), {"mem", "kv_pool"}));
}

TEST_CASE("runtime.max_batch_size bounds what runs at once") {
  for (const int size : {1, 3}) {
    Engine engine = make_engine({{"runtime.max_batch_size", std::to_string(size)}});
    for (int i = 0; i < 2 * size + 2; ++i) engine.submit(prompt_of(6, i), greedy(5));
    finish_all(engine);
    CHECK(report_number(engine.report_json(), {"scheduler", "max_running"}) == size);
  }
}

TEST_CASE("runtime.warmup runs kernels before the first request and changes no token") {
  Engine cold = make_engine(), warm = make_engine({{"runtime.warmup", "true"}});
  CHECK(launches_of(cold, "") == 0);
  CHECK(launches_of(warm, "attention") == 2 * 3);  // one prefill and one decode step, three layers
  CHECK(report_number(warm.report_json(), {"kv", "blocks_used"}) == 0);
  CHECK(complete(warm, prompt_of(9), greedy(12)) == complete(cold, prompt_of(9), greedy(12)));
}

TEST_CASE("settings of the GPU's matrix library: a CPU says that they change nothing") {
  for (const auto& [key, value] :
       {std::pair<std::string, std::string>{"gemm.cublas_fp16_acc", "on"}, {"diagnostics.log_gemm_algo", "true"}}) {
    CAPTURE(key);
    const std::string report = make_engine({{key, value}}).report_json();
    CHECK(contains(report.substr(report.find("\"without_effect\"")), key));
  }
}

TEST_CASE("attention.fp8_prefill: always is refused where nothing multiplies in fp8") {
  try {
    make_engine({{"attention.fp8_prefill", "always"}});
    FAIL("made an engine on a CPU");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::unsupported);
    CHECK(contains(error.what(), "attention.fp8_prefill"));
    CHECK(contains(error.what(), "this is the CPU"));
  }
  Engine never = make_engine({{"attention.fp8_prefill", "never"}});
  CHECK(complete(never, prompt_of(9), greedy(2)).tokens.size() == 2);
}

TEST_CASE("runtime.deterministic implies deterministic_gemm; repeats are equal to the bit") {
  Engine engine = make_engine({{"runtime.deterministic", "true"}});
  CHECK(contains(engine.report_json(), "\"deterministic\":true,\"deterministic_gemm\":true"));
  CHECK(contains(make_engine().report_json(), "\"deterministic\":false,\"deterministic_gemm\":false"));
  const std::vector<float> first = engine.logits(prompt_of(50), true);
  for (int i = 0; i < 5; ++i) CHECK(engine.logits(prompt_of(50), true) == first);
}

TEST_CASE("runtime.debug_raw turns the fast integer kernels off") {
  Engine fast = make_engine({}, "tiny-llama-q8_0"),
         raw = make_engine({{"runtime.debug_raw", "true"}}, "tiny-llama-q8_0");
  CHECK(contains(raw.report_json(), "\"runtime.debug_raw\""));
  CHECK(contains(raw.report_json(), "\"origin\":\"implied\",\"detail\":\"runtime.debug_raw\""));
  complete(fast, prompt_of(20), greedy(4));
  complete(raw, prompt_of(20), greedy(4));
  CHECK(launches_of(raw, "dp4a") + launches_of(raw, "mmvq") == 0);
}

TEST_CASE("gemm.no_*: the integer kernels of decode can be switched off one by one") {
  const std::string model = "tiny-llama-q8_0";
  Engine plain = make_engine({}, model);
  const Completion expected = complete(plain, prompt_of(8), greedy(6));
  const double dp4a = launches_of(plain, "gemv_dp4a");
  if (dp4a == 0) return;  // a machine without the instructions: nothing to switch off
  Engine no_head = make_engine({{"gemm.no_dp4a_lm", "true"}}, model);
  complete(no_head, prompt_of(8), greedy(6));
  CHECK(launches_of(no_head, "gemv_dp4a") < dp4a);
  Engine no_body = make_engine({{"gemm.no_dp4a_gemv", "true"}}, model);
  complete(no_body, prompt_of(8), greedy(6));
  CHECK(launches_of(no_body, "gemv_dp4a") < dp4a);
}

TEST_CASE("gemm.no_mmvq takes all integer kernels away; no_mmvq_q8_0 those of Q8_0 alone") {
  const auto launched = [](const std::string& model, const Overrides& overrides) {
    Engine engine = make_engine(overrides, model);
    complete(engine, prompt_of(3), greedy(3));   // a few rows, then one at a time
    complete(engine, prompt_of(20), greedy(1));  // many rows
    std::map<std::string, double> launches;
    for (const char* family : {"gemv_dp4a", "mmvq", "mmq", "gemv_dequant", "gemm_dequant"})
      launches[family] = launches_of(engine, family);
    return launches;
  };
  for (const std::string model : {"tiny-llama-q8_0", "tiny-qwen3-q4_k"}) {
    CAPTURE(model);
    const auto plain = launched(model, {});
    if (plain.at("gemv_dp4a") == 0) {
      MESSAGE("this machine has no integer kernels; nothing to switch off");
      return;
    }
    CHECK(plain.at("mmvq") > 0);
    CHECK(plain.at("mmq") > 0);

    const auto none = launched(model, {{"gemm.no_mmvq", "true"}});
    for (const char* family : {"gemv_dp4a", "mmvq", "mmq"}) CHECK_MESSAGE(none.at(family) == 0, family);
    CHECK(none.at("gemv_dequant") > plain.at("gemv_dequant"));
    CHECK(none.at("gemm_dequant") > plain.at("gemm_dequant"));
    // One model has no quantized format but Q8_0, the other no Q8_0: the narrower key does all of this, or nothing.
    CHECK(launched(model, {{"gemm.no_mmvq_q8_0", "true"}}) == (model == "tiny-llama-q8_0" ? none : plain));
  }
}

TEST_CASE("settings of GPU kernels: said to be without effect on the CPU") {
  for (const auto& [key, value] :
       Overrides{{"attention.no_qknorm_fused", "true"}, {"attention.splitk_pipe", "false"}}) {
    CAPTURE(key);
    const std::string sentence = key + " = " + value + " has no effect on the CPU";
    CHECK(contains(make_engine({{key, value}}).report_json(), sentence));
    CHECK_FALSE(contains(make_engine().report_json(), sentence));
  }
}

TEST_CASE("generation.force_bos puts BOS in front, once") {
  Engine plain = make_engine(), forced = make_engine({{"generation.force_bos", "true"}});
  const TokenId bos = forced.tokenizer()->special().bos.value();
  const auto prompt_tokens = [](Engine& engine, const std::vector<TokenId>& prompt) {
    const RequestId id = engine.submit(prompt, greedy(4));
    finish_all(engine);
    return engine.timings(id).prompt_tokens;
  };
  CHECK(prompt_tokens(plain, {10, 11}) == 2);
  CHECK(prompt_tokens(forced, {10, 11}) == 3);
  CHECK(prompt_tokens(forced, {bos, 10, 11}) == 3);
  CHECK(complete(forced, {10, 11}, greedy(8)) == complete(plain, {bos, 10, 11}, greedy(8)));
  CHECK(contains(make_engine({{"generation.force_bos", "true"}}, "tiny-qwen3").report_json(),
                 "generation.force_bos has no effect"));
}

TEST_CASE("generation.no_ban lets control tokens be drawn") {
  Engine banned = make_engine(), free = make_engine({{"generation.no_ban", "true"}});
  SamplingParams params = greedy(4);
  const TokenId control = banned.tokenizer()->find("<|im_start|>").value();
  params.logit_bias[control] = 1000;
  CHECK(complete(free, prompt_of(5), params).tokens == std::vector<TokenId>(4, control));
  const std::vector<TokenId> without = complete(banned, prompt_of(5), params).tokens;
  CHECK(std::find(without.begin(), without.end(), control) == without.end());
}

TEST_CASE("generation.no_logit_softcap") {
  Engine capped = make_engine({}, "tiny-gemma3-softcap");
  Engine open = make_engine({{"generation.no_logit_softcap", "true"}}, "tiny-gemma3-softcap");
  const auto prompt = prompt_of(12);
  const float with = highest_magnitude(capped.logits(prompt, true)),
              without = highest_magnitude(open.logits(prompt, true));
  CHECK(without > with);
  CHECK(contains(make_engine({{"generation.no_logit_softcap", "true"}}).report_json(), "does not cap its logits"));
}

TEST_CASE("generation.lm_dequant_fp16 takes the head by another way, to nearly the same logits") {
  Engine plain = make_engine({}, "tiny-llama-q8_0");
  Engine dequant = make_engine({{"generation.lm_dequant_fp16", "true"}}, "tiny-llama-q8_0");
  const std::vector<float> expected = plain.logits(prompt_of(10), false), found = dequant.logits(prompt_of(10), false);
  CHECK(launches_of(plain, "dequant_lm_head") == 0);
  CHECK(launches_of(dequant, "dequant_lm_head") == 1);
  const float scale = highest_magnitude(expected);
  for (size_t i = 0; i < found.size(); ++i) CHECK(std::abs(found[i] - expected[i]) < 0.03f * scale);
}

TEST_CASE("generation.think_budget is inert, and says so, where the vocabulary has no markers") {
  CHECK(
      contains(make_engine({{"generation.think_budget", "8"}}).report_json(), "generation.think_budget has no effect"));
  CHECK_FALSE(contains(make_engine().report_json(), "has no effect"));
}

TEST_CASE("ffn.sparsity_probe counts without changing anything") {
  TempDir dir;
  Completion probed;
  const std::string text = stderr_of(dir, [&] {
    Engine engine = make_engine({{"ffn.sparsity_probe", "true"}});
    probed = complete(engine, prompt_of(10), greedy(6));
    const std::string report = engine.report_json();
    const double total = report_number(report, {"ffn_sparsity", "layers", "total"});
    CHECK(total == (10 + 5) * report_number(engine.explain_json({1}), {"intermediate_size"}));
  });
  CHECK(contains(text, "share of FFN activations"));
  Engine plain = make_engine();
  CHECK(contains(plain.report_json(), "\"ffn_sparsity\":null"));
  CHECK(probed == complete(plain, prompt_of(10), greedy(6)));
}

TEST_CASE("ffn.sparsity_threshold: zero is exact, a huge one silences the FFN of Q8_0 models") {
  const std::string model = "tiny-llama-q8_0";
  Engine plain = make_engine({}, model), zero = make_engine({{"ffn.sparsity_threshold", "0.0"}}, model);
  Engine huge = make_engine({{"ffn.sparsity_threshold", "1e9"}}, model);
  const auto decode = [](Engine& engine) { return complete(engine, prompt_of(4), greedy(12)); };
  const Completion expected = decode(plain);
  CHECK(decode(zero) == expected);
  decode(huge);
  CHECK(launches_of(plain, "skip") == 0);
  CHECK(launches_of(huge, "skip") > 0);
  // No group of activations is as small as this, some are as small as that: the value counts, not that there is one.
  const auto next = [&](const char* threshold) {
    Engine engine = make_engine({{"ffn.sparsity_threshold", threshold}}, model);
    complete(engine, prompt_of(4), greedy(1));
    SamplingParams params = greedy(6);
    params.logprobs = 1;
    std::vector<float> found;
    for (const auto& row : complete(engine, prompt_of(4), params).logprobs) found.push_back(row[0].logprob);
    return found;
  };
  const std::vector<float> exact = next("0"), none = next("1e-9"), some = next("8");
  REQUIRE(none.size() == exact.size());
  for (size_t i = 0; i < exact.size(); ++i) CHECK(none[i] == doctest::Approx(exact[i]).epsilon(1e-4));
  CHECK(some != none);
  CHECK(some != next("1e9"));
  CHECK(
      contains(make_engine({{"ffn.sparsity_threshold", "0.01"}}, "tiny-qwen3").report_json(), "no down_proj is Q8_0"));
}

TEST_CASE("diagnostics.exit_layer runs fewer layers") {
  Engine whole = make_engine(), early = make_engine({{"diagnostics.exit_layer", "0"}});
  const auto prompt = prompt_of(12);
  CHECK(whole.logits(prompt, false) != early.logits(prompt, false));
  CHECK(launches_of(whole, "attention") == 3);
  CHECK(launches_of(early, "attention") == 1);
  Engine past = make_engine({{"diagnostics.exit_layer", "99"}});
  CHECK(effective(past, "diagnostics.exit_layer") == -1);
  CHECK(past.logits(prompt, false) == whole.logits(prompt, false));
}

TEST_CASE("diagnostics.dump_tokens shows the first 20 ids") {
  TempDir dir;
  const auto line_of = [&](bool on, int length) {
    Engine engine = make_engine({{"diagnostics.dump_tokens", on ? "true" : "false"}});
    return stderr_of(dir, [&] { engine.submit(std::vector<TokenId>(static_cast<size_t>(length), 7), greedy(1)); });
  };
  CHECK(line_of(true, 3) == "imp: prefill tokens (3): 7 7 7\n");
  const std::string long_line = line_of(true, 25);
  CHECK(count_of(long_line, " 7") == 20);
  CHECK(contains(long_line, "(25):"));
  CHECK(contains(long_line, "... 5 more\n"));
  CHECK(line_of(false, 3) == "");
}

TEST_CASE("diagnostics.dump_hidden_dir writes a file a layer and step") {
  TempDir dir;
  Engine engine = make_engine({{"diagnostics.dump_hidden_dir", dir / "hidden"}});
  complete(engine, prompt_of(5), greedy(2));
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dir / "hidden"))
    files += entry.path().extension() == ".npy";
  CHECK(files == 2 * (3 + 1));
  CHECK(contains(engine.report_json(), "\"dump_hidden_dir\":\"" + (dir / "hidden") + "\""));
  CHECK_THROWS_AS(make_engine({{"diagnostics.dump_hidden_dir", "/dev/null/x"}}), Error);
}

TEST_CASE("diagnostics.debug_forward prints each layer") {
  TempDir dir;
  const auto lines = [&](const char* value) {
    Engine engine = make_engine({{"diagnostics.debug_forward", value}});
    return count_of(stderr_of(dir, [&] { engine.logits(prompt_of(5), false); }), "\n");
  };
  CHECK(lines("false") == 0);
  CHECK(lines("true") == 1 + 3 * 2);  // embeddings; activation and residual of each layer
}

TEST_CASE("diagnostics.profile: a table at the end, and a report whose sum is the time of the forward passes") {
  TempDir dir;
  const std::string text = stderr_of(dir, [] {
    Engine engine = make_engine({{"diagnostics.profile", "true"}});
    complete(engine, prompt_of(100), greedy(20));
    CHECK(report_number(engine.report_json(), {"profile", "attention", "calls"}) == 20 * 3);
    CHECK(report_number(engine.report_json(), {"profile", "attention", "seconds"}) > 0);
  });
  CHECK(contains(text, "imp: profile of 20 forward batches"));
  CHECK(contains(text, "linear_lm_head"));
  CHECK(contains(make_engine().report_json(), "\"profile\":{}"));
}

TEST_CASE("explain: each role and batch size has a chosen kernel, and the refused have reasons") {
  Engine engine = make_engine({}, "tiny-qwen3-q4_k");
  const std::string text = engine.explain_json({1, 64});
  for (const char* part :
       {"\"spec\"", "\"memory_plan\"", "\"role\":\"qkv\"", "\"role\":\"down\"", "\"role\":\"lm_head\"",
        "\"format\":\"Q4_K\"", "\"m\":64", "\"phase\":\"decode\"", "\"phase\":\"prefill\"", "\"reason\":\"", "kv_pool"})
    CHECK_MESSAGE(contains(text, part), part);
  CHECK_FALSE(contains(text, "\"chosen\":null"));
  CHECK_THROWS_AS(engine.explain_json({0}), Error);
}

TEST_CASE("attention.* of CUDA kernels: said to have no effect on the CPU, once changed") {
  Engine engine = make_engine(
      {{"attention.fmha_fa2", "never"}, {"attention.fa2_f16acc", "false"}, {"attention.force_cublas_decode", "true"}});
  const std::string report = engine.report_json();
  CHECK(contains(report, "attention.fmha_fa2 = \\\"never\\\" has no effect on the CPU"));
  CHECK(contains(report, "attention.fa2_f16acc = false has no effect on the CPU"));
  CHECK(contains(report, "attention.force_cublas_decode = true has no effect on the CPU"));
  CHECK_FALSE(contains(report, "attention.fmha_sm120 = "));
}

TEST_CASE("settings of graphs have no effect on a CPU, and the report says so") {
  const Overrides changed[] = {{{"runtime.cuda_graphs", "always"}},
                               {{"runtime.graph_capture_mode", "global"}},
                               {{"runtime.no_pdl", "true"}},
                               {{"diagnostics.graph_diag", "true"}},
                               {{"diagnostics.graph_dump_dir", "/tmp"}}};
  for (const Overrides& overrides : changed) {
    Engine engine = make_engine(overrides);
    CAPTURE(overrides[0].first);
    for (const std::string& text : {engine.report_json(), engine.explain_json({1})}) {
      const size_t at = text.find("\"without_effect\":[\"" + overrides[0].first + " = ");
      REQUIRE(at != std::string::npos);
      CHECK(contains(text.substr(at, 120), "has no effect on the CPU"));
    }
  }
  CHECK(contains(make_engine({{"runtime.cuda_graphs", "never"}}).report_json(), "\"without_effect\":[]"));
  CHECK(contains(make_engine({{"runtime.debug_raw", "true"}}).report_json(), "\"without_effect\":[]"));
}
