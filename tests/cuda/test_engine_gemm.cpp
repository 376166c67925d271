#include <doctest/doctest.h>

#include <algorithm>
#include <sstream>

#include "support/capture_stderr.h"
#include "support/compare.h"
#include "support/cuda_engine.h"

// The engine on the device under keys of gemm.*, and with copies of weights for prompts.

using namespace imp;
using namespace imp::test;

namespace {

/// With the same pool, and a byte too little for bf16 copies of weights.
Engine without_copies(const Overrides& overrides, const std::string& name) {
  const double needed = report_number(on_device(overrides, name).explain_json({1}), {"memory_plan", "total_bytes"});
  return on_device(overrides, name, "", static_cast<uint64_t>(needed) - 1);
}

}  // namespace

TEST_CASE("bf16 copies of weights: kept where the budget has room, used by prompts, with the same results") {
  for (const std::string name : {"tiny-llama-q8_0", "tiny-qwen3-q4_k"}) {
    CAPTURE(name);
    const Overrides fixed = {{"runtime.deterministic_gemm", "true"}};  // the same algorithms in both
    Engine roomy = on_device(fixed, name);
    const double bytes = report_number(roomy.report_json(), {"mem", "bf16_prefill_copies"});
    CHECK(bytes > 0);
    const std::string explained = roomy.explain_json({200});
    CHECK(report_number(explained, {"memory_plan", "prefill_copy_bytes"}) == bytes);
    CHECK(contains(explained, "cublaslt_bf16"));
    Engine tight = without_copies(fixed, name);
    const std::string without = tight.explain_json({200});
    CHECK(report_number(tight.report_json(), {"mem", "bf16_prefill_copies"}) == -1);
    CHECK(report_number(without, {"memory_plan", "kv_bytes"}) == report_number(explained, {"memory_plan", "kv_bytes"}));
    CHECK(contains(without, "no bf16 copies of weights for prompts"));

    // Without copies weights are expanded for the step, in memory or on the way to the tensor cores.
    const auto expanded = [](const Engine& engine) {
      return launches_of(engine, "dequantize_bf16") + launches_of(engine, "gemm_wgmma");
    };
    const auto at_load = expanded(roomy), at_load_without = expanded(tight);
    const std::vector<float> with_copies = roomy.logits(prompt_of(200), false),
                             expected = tight.logits(prompt_of(200), false);
    CHECK(expanded(roomy) == at_load);
    CHECK(expanded(tight) > at_load_without);
    CHECK(distance(with_copies, expected) < 3e-2);  // gate and up are rounded to bf16 in one of the two alone
  }
  // Weights in bf16 are read where they are; fp8 and sums in f16 have no use for copies.
  for (const Overrides& overrides :
       {Overrides{{"attention.fp8_prefill", "always"}}, Overrides{{"gemm.cublas_fp16_acc", "on"}}}) {
    Engine engine = on_device(overrides, "tiny-llama-q8_0");
    CHECK(report_number(engine.report_json(), {"mem", "bf16_prefill_copies"}) == -1);
  }
}

TEST_CASE("diagnostics.log_gemm_algo: a line a shape; runtime.deterministic_gemm splits no sum") {
  const auto lines = [](const Overrides& overrides) {
    const TempDir dir;
    const std::string text = stderr_of(dir, [&] {
      Engine engine = on_device(overrides);
      for (int length : {30, 30, 40}) complete(engine, prompt_of(length), greedy(2));
    });
    std::vector<std::string> found;
    std::istringstream all(text);
    for (std::string line; std::getline(all, line);)
      if (contains(line, "imp: gemm ")) found.push_back(line);
    return found;
  };
  CHECK(lines({}).empty());
  const std::vector<std::string> free = lines({{"diagnostics.log_gemm_algo", "true"}});
  const std::vector<std::string> fixed =
      lines({{"diagnostics.log_gemm_algo", "true"}, {"runtime.deterministic_gemm", "true"}});
  // Its linears at two lengths, one of which came by twice.
  const auto at = [](const std::vector<std::string>& all, const std::string& m) {
    return std::ranges::count_if(all, [&](const std::string& line) { return contains(line, "gemm m=" + m + " "); });
  };
  for (const auto* all : {&free, &fixed}) {
    CHECK(at(*all, "30") >= 3);
    CHECK(at(*all, "40") == at(*all, "30"));
  }
  for (const std::string& line : fixed) {
    CAPTURE(line);
    CHECK(contains(line, "splitk=1 reduction=0"));
    CHECK(!contains(line, "us="));
    for (size_t at = line.find("splitk="); at != std::string::npos; at = line.find("splitk=", at + 1))
      CHECK(line.compare(at, 9, "splitk=1 ") == 0);
  }
}

TEST_CASE("gemm.cublas_fp16_acc: on takes products with f16 sums, auto and off do not") {
  const auto products = [](const Engine& engine) {
    return report_number(engine.report_json(), {"launches", "to_f16"});
  };
  for (const std::string name : kTinyModels) {
    CAPTURE(name);
    Engine automatic = on_device({}, name), off = on_device({{"gemm.cublas_fp16_acc", "off"}}, name),
           on = on_device({{"gemm.cublas_fp16_acc", "on"}}, name);
    for (Engine* engine : {&automatic, &off, &on}) complete(*engine, prompt_of(180), greedy(2));
    CHECK(products(automatic) == -1);
    CHECK(products(off) == -1);
    CHECK(products(on) > 0);
    CHECK(contains(on.report_json(), "dequant_gemm_f16"));
    CHECK(!contains(automatic.report_json(), "dequant_gemm_f16"));
    const std::vector<float> a = on.logits(prompt_of(180), false), b = off.logits(prompt_of(180), false);
    CHECK(distance(a, b) < 5e-2);
    CHECK(distance(a, b) > 0);
  }
}

TEST_CASE("gemm.q8_imma_enabled: prompts of Q8_0 models go through the integer tensor cores or they do not") {
  const auto launched = [](const Overrides& overrides, int tokens) {
    Engine engine = without_copies(overrides, "tiny-llama-q8_0");
    complete(engine, prompt_of(tokens), greedy(1));
    return launches_of(engine, "gemm_imma");
  };
  const Overrides off = {{"gemm.q8_imma_enabled", "false"}};
  CHECK(launched({}, 64) > 0);
  CHECK(launched(off, 64) == 0);
  CHECK(launched(off, 63) > 0);  // too few to be called a prompt
}

TEST_CASE("gemm.q4k_imma_prefill: long prompts of Q4_K models go through the integer tensor cores or they do not") {
  const auto launched = [](const Overrides& overrides, int tokens) {
    Engine engine = without_copies(overrides, "tiny-qwen3-q4_k");
    complete(engine, prompt_of(tokens), greedy(1));
    return launches_of(engine, "gemm_imma");
  };
  const Overrides on = {{"gemm.q4k_imma_prefill", "true"}};
  Engine with_copies = on_device(on, "tiny-qwen3-q4_k");  // asked for, it goes before copies of the weights
  complete(with_copies, prompt_of(150), greedy(1));
  CHECK(launches_of(with_copies, "gemm_imma") > 0);
  CHECK(launched({}, 64) > 0);
  CHECK(launched({}, 65) == 0);
  CHECK(launched(on, 65) > 0);
  CHECK(launched(on, 150) > 0);
}

TEST_CASE(
    "gemm.q4k_hmma_enabled: prompts of Q4_K models expand weights on the way to the tensor cores or they do not") {
  const Overrides on = {{"gemm.q4k_hmma_enabled", "true"}},
                  both = {{"gemm.q4k_hmma_enabled", "true"}, {"gemm.q4k_imma_prefill", "true"}};
  const auto launched = [](const Overrides& overrides, int tokens, const std::string& model) {
    Engine engine = on_device(overrides, model);
    complete(engine, prompt_of(tokens), greedy(1));
    return std::pair(launches_of(engine, "gemm_hmma_q4k") > 0, launches_of(engine, "gemm_imma") > 0);
  };
  const std::string q4_k = "tiny-qwen3-q4_k";
  CHECK(launched({}, 150, q4_k) == std::pair(false, false));
  CHECK(launched(on, 150, q4_k) == std::pair(true, false));
  CHECK(launched(on, 32, q4_k).first);
  CHECK(!launched(on, 31, q4_k).first);
  CHECK(launched(both, 150, q4_k) == std::pair(false, true));
  CHECK(!launched(on, 150, "tiny-llama-q8_0").first);

  Engine plain = on_device({}, q4_k), fused = on_device(on, q4_k);
  const std::vector<float> a = fused.logits(prompt_of(150), false), b = plain.logits(prompt_of(150), false);
  // Products agree to 1e-5 (test_linear_fused.cpp). Between them one way keeps sums in bf16 where the other does not,
  // and each is 1.3 % from a CPU's logits of this model (test_model.cpp).
  CHECK(distance(a, b) < 3e-2);
  CHECK(contains(fused.report_json(), "gemm_hmma"));
  CHECK(contains(fused.explain_json({150}), "gemm_hmma"));
}

TEST_CASE("gemm.no_mmvq keeps batches away from the integer tensor cores") {
  for (const char* key : {"gemm.no_mmvq", "gemm.no_mmvq_q8_0"}) {
    CAPTURE(key);
    Engine engine = on_device({{key, "true"}}, "tiny-llama-q8_0");
    complete(engine, prompt_of(20), greedy(2));
    for (const char* kernel : {"gemm_imma", "gemv_dp4a", "gemv_mma"}) CHECK(launches_of(engine, kernel) == 0);
  }
}
