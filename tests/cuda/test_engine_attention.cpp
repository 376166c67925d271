#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "support/compare.h"
#include "support/cuda_engine.h"

// The engine on the device under keys of attention.*.

using namespace imp;
using namespace imp::test;

TEST_CASE("attention.no_qknorm_fused and splitk_pipe: other kernels, the same text") {
  for (const std::string name : kTinyModels) {
    CAPTURE(name);
    Engine plain = on_device({}, name), separate = on_device({{"attention.no_qknorm_fused", "true"}}, name),
           unpiped = on_device({{"attention.splitk_pipe", "false"}}, name);
    const Completion expected = complete(plain, prompt_of(40), greedy(20));
    CHECK(complete(separate, prompt_of(40), greedy(20)) == expected);
    CHECK(complete(unpiped, prompt_of(40), greedy(20)) == expected);
    CHECK(launches_of(plain, "rope_attention_decode") > 0);
    CHECK(launches_of(plain, "rope_attention_decode_unpiped") == 0);
    CHECK(launches_of(separate, "rope_attention_decode") == 0);
    CHECK(launches_of(separate, "qk_rope_kv") > launches_of(plain, "qk_rope_kv"));
    CHECK(launches_of(unpiped, "rope_attention_decode_unpiped") > 0);
    CHECK(launches_of(unpiped, "rope_attention_decode") == launches_of(unpiped, "rope_attention_decode_unpiped"));
  }
}

TEST_CASE("attention.force_cublas_decode: products of the library, no graphs, the same probabilities") {
  for (const std::string name : kTinyModels) {
    CAPTURE(name);
    // Products in integers round activations to 8 bits, and a hair's breadth decides which way.
    const Overrides floats = {{"gemm.no_mmvq", "true"}};
    Overrides forced = floats;
    forced.emplace_back("attention.force_cublas_decode", "true");
    Engine paged = on_device(floats, name), gathered = on_device(forced, name);
    const std::string report = gathered.report_json();
    CHECK(contains(report, "\"attention_decode\":\"cublas_decode\""));
    CHECK(contains(report, "\"cuda_graphs\":\"never\""));
    CHECK(contains(report, "sizes change (attention.force_cublas_decode)"));
    SamplingParams params = greedy(60);
    params.logprobs = 5;
    // What a share of the logits' spread is allowed to: products over blocks round activations once more.
    const std::vector<float> logits = paged.logits(prompt_of(17), false);
    const auto [least, most] = std::ranges::minmax(logits);
    const bool blocks = name == "tiny-llama-q8_0" || name == "tiny-qwen3-q4_k";
    const float tolerance = (blocks ? 2e-2f : 2e-3f) * (most - least);
    int same = 0;
    for (int length : {1, 17, 150}) {
      const Completion expected = complete(paged, prompt_of(length), params),
                       found = complete(gathered, prompt_of(length), params);
      for (size_t i = 0; i < expected.tokens.size(); ++i, ++same) {
        const auto &a = expected.logprobs[i], &b = found.logprobs[i];
        CHECK(std::abs(a[0].logprob - b[0].logprob) < tolerance);
        if (expected.tokens[i] != found.tokens[i]) {  // from here on they are different texts
          CHECK(std::abs(a[1].logprob - a[2].logprob) < 2 * tolerance);
          break;
        }
      }
    }
    CHECK(same > 60);
    CHECK(launches_of(gathered, "rope_attention_decode") == 0);
    CHECK(launches_of(gathered, "cublas_qk") > 3 * 59);
    CHECK(launches_of(gathered, "cublas_qk") == launches_of(gathered, "cublas_pv"));
    CHECK(launches_of(paged, "cublas_qk") == 0);
    CHECK(report_number(gathered.report_json(), {"graphs", "captures"}) == 0);
    CHECK(report_number(gathered.report_json(), {"mem", "workspace"}) >
          report_number(paged.report_json(), {"mem", "workspace"}));
  }
}

TEST_CASE("attention.fp8_prefill: a copy of the weights, products in fp8 for long prompts, and off unless asked for") {
  const auto cache = [](const Engine& engine) {
    return report_number(engine.report_json(), {"mem", "fp8_prefill_cache"});
  };
  const auto products = [](const Engine& engine) {
    return report_number(engine.report_json(), {"launches", "to_e4m3"});
  };
  for (const std::string name : kTinyModels) {
    CAPTURE(name);
    Engine off = on_device({}, name), never = on_device({{"attention.fp8_prefill", "never"}}, name),
           on = on_device({{"attention.fp8_prefill", "always"}}, name);
    CHECK(cache(off) == -1);
    CHECK(cache(never) == -1);
    CHECK(cache(on) > 0);
    CHECK(contains(on.report_json(), "cublaslt_fp8"));
    CHECK(!contains(off.report_json(), "cublaslt_fp8"));
    const double at_load = products(on);  // the weights' own
    complete(on, prompt_of(20), greedy(4));
    CHECK(products(on) == at_load);
    CHECK(complete(on, prompt_of(180), greedy(4)).tokens.size() == 4);
    CHECK(products(on) > at_load);
    complete(off, prompt_of(180), greedy(4));
    CHECK(products(off) == -1);
  }
}
