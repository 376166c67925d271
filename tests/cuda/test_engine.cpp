#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "support/cuda_engine.h"

// The whole engine with the CUDA backend under it. What keys of attention.* and gemm.* change is in
// test_engine_attention.cpp and test_engine_gemm.cpp.

using namespace imp;
using namespace imp::test;

namespace {

double of_graphs(const Engine& engine, const std::string& field) {
  return report_number(engine.report_json(), {"graphs", field});
}

int64_t free_bytes() {
  size_t free = 0, total = 0;
  REQUIRE(cudaMemGetInfo(&free, &total) == cudaSuccess);
  return static_cast<int64_t>(free);
}

}  // namespace

TEST_CASE("greedy text is the same with graphs and without, alone and beside others") {
  for (const std::string name : kTinyModels) {
    CAPTURE(name);
    Engine graphs = on_device({}, name), eager = on_device(kEager, name);
    CHECK(graphs.device() == "cuda");
    const Completion alone = complete(graphs, prompt_of(20), greedy(60));
    CHECK(alone.tokens.size() == 60);
    CHECK(complete(eager, prompt_of(20), greedy(60)) == alone);

    // The prompts are processed one after another, and the four then decode together.
    std::vector<RequestId> ids;
    for (int seed = 1; seed <= 4; ++seed) ids.push_back(graphs.submit(prompt_of(20, seed), greedy(40)));
    const auto together = finish_all(graphs);
    for (RequestId id : ids) CHECK(together.at({id, 0}).tokens.size() == 40);
  }
}

TEST_CASE("tokens drawn on the device, and steps launched before they are seen, change nothing") {
  for (const std::string name : kTinyModels) {
    CAPTURE(name);
    Engine engines[] = {on_device({}, name, "host"), on_device({}, name, "device"), on_device({}, name, "ahead")};
    SamplingParams stopped = greedy(60);
    stopped.stop_token_ids = {complete(engines[0], prompt_of(20), greedy(30)).tokens[25]};
    std::vector<std::vector<Completion>> all;
    for (Engine& engine : engines) {
      std::vector<Completion>& found = all.emplace_back();
      for (int repeat = 0; repeat < 3; ++repeat) found.push_back(complete(engine, prompt_of(20), greedy(60)));
      found.push_back(complete(engine, prompt_of(20), stopped));
      std::vector<RequestId> ids;  // the same steps in every mode
      for (int seed = 1; seed <= 4; ++seed) ids.push_back(engine.submit(prompt_of(20, seed), greedy(40)));
      const auto together = finish_all(engine);
      for (RequestId id : ids) found.push_back(together.at({id, 0}));
    }
    CHECK(all[0].size() == 8);
    CHECK(all[1] == all[0]);
    CHECK(all[2] == all[0]);
    CHECK(report_number(engines[0].report_json(), {"sampling", "device_draws"}) == 0);
    CHECK(report_number(engines[1].report_json(), {"sampling", "steps_ahead"}) == 0);
    CHECK(report_number(engines[2].report_json(), {"sampling", "host_draws"}) == 0);
    CHECK(report_number(engines[2].report_json(), {"sampling", "steps_ahead"}) > 200);
    CHECK(report_number(engines[2].report_json(), {"launches", "sample_greedy"}) > 200);
  }
}

TEST_CASE("the device's sampler gives the host's tokens and probabilities") {
  Engine engines[] = {on_device({}, "tiny-llama", "host"), on_device({}, "tiny-llama", "ahead")};
  for (int i = 0; i < 12; ++i) {
    CAPTURE(i);
    SamplingParams params = greedy(50);
    params.temperature = i == 7 ? 0.0f : 0.6f + 0.2f * static_cast<float>(i % 4);
    params.seed = 100 + i;
    params.ignore_eos = i % 3 != 0;
    if (i % 2) params.top_k = 20;
    if (i % 3) params.top_p = 0.92f;
    if (i % 5 == 2) params.min_p = 0.03f;
    if (i % 4 == 1) params.repetition_penalty = 1.25f, params.penalty_last_n = 12;
    if (i % 4 == 3) params.frequency_penalty = 0.5f, params.penalty_last_n = -1;
    if (i % 6 == 0) params.logit_bias = {{40, 3.0f}, {41, -4.0f}};
    if (i % 6 == 1) params.banned_token_ids = {60, 61, 62};
    if (i % 6 == 2) params.min_tokens = 30, params.stop_token_ids = {50, 51, 52, 53};
    if (i % 2) params.logprobs = 5;
    if (i == 8) params.n = 3;
    std::vector<Completion> found[2];
    for (int e = 0; e < 2; ++e) {
      const RequestId id = engines[e].submit(prompt_of(20, i), params);
      const auto all = finish_all(engines[e]);
      for (int index = 0; index < params.n; ++index) found[e].push_back(all.at({id, index}));
    }
    CHECK(found[1] == found[0]);
    for (size_t index = 0; index < found[0].size(); ++index) {
      REQUIRE(found[1][index].logprobs.size() == found[0][index].logprobs.size());
      for (size_t t = 0; t < found[0][index].logprobs.size(); ++t) {
        const auto &host = found[0][index].logprobs[t], &device = found[1][index].logprobs[t];
        REQUIRE(host.size() == device.size());
        for (size_t k = 0; k < host.size(); ++k) {
          CHECK(device[k].id == host[k].id);
          CHECK(device[k].rank == host[k].rank);
          CHECK(device[k].logprob == doctest::Approx(host[k].logprob).epsilon(1e-5));
        }
      }
    }
  }
  CHECK(contains(engines[1].report_json(), "\"host_requests\":{}"));
  CHECK(report_number(engines[1].report_json(), {"launches", "sample_filtered"}) > 300);
}

TEST_CASE("several sequences of one request part from one prompt") {
  Engine engine = on_device();
  SamplingParams params = greedy(30);
  params.n = 3;
  const RequestId id = engine.submit(prompt_of(21), params);
  const auto all = finish_all(engine);
  for (int i : {1, 2}) CHECK(all.at({id, i}) == all.at({id, 0}));
}

TEST_CASE("deterministic: a hundred runs and a second engine give one text and the same probabilities") {
  const Overrides deterministic = {{"runtime.deterministic", "true"}};
  SamplingParams params = greedy(12);
  params.logprobs = 3;
  for (const std::string name : {"tiny-llama", "tiny-qwen3-q4_k"}) {
    CAPTURE(name);
    Engine first = on_device(deterministic, name), second = on_device(deterministic, name);
    const Completion wanted = complete(first, prompt_of(33), params);
    REQUIRE(wanted.logprobs.size() == 12);
    const auto same = [&](const Completion& other) {
      if (!(other == wanted) || other.logprobs.size() != 12) return false;
      for (size_t t = 0; t < 12; ++t)
        for (size_t i = 0; i < wanted.logprobs[t].size(); ++i)
          if (other.logprobs[t].at(i).logprob != wanted.logprobs[t][i].logprob) return false;
      return true;
    };
    int different = 0;
    for (int i = 0; i < 100; ++i) different += !same(complete(first, prompt_of(33), params));
    CHECK(different == 0);
    CHECK(same(complete(second, prompt_of(33), params)));
  }
}

TEST_CASE("an engine gives its memory back") {
  {
    Engine warm = on_device();
  }  // the context and the library keep theirs
  // Each takes more than 200 MiB. Others may use the device meanwhile, so what 20 would leak is looked for.
  const int64_t before = free_bytes();
  for (int i = 0; i < 20; ++i) {
    Engine engine = on_device();
    complete(engine, prompt_of(20), greedy(5));
  }
  CHECK(free_bytes() > before - (int64_t{3} << 30));
}

TEST_CASE("a device that does not exist is named") {
  try {
    engine_with({.device = "cuda:99"});
    FAIL("made an engine on device 99");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::invalid_argument);
    CHECK(contains(error.what(), "there is no CUDA device 99"));
  }
}

TEST_CASE("runtime.prefill_graph: a length is recorded when it comes by for the 16th time, with the same text") {
  for (const std::string name : kTinyModels) {
    CAPTURE(name);
    Engine graphs = on_device({}, name), eager = on_device({{"runtime.prefill_graph", "false"}}, name);
    for (int time = 1; time <= 18; ++time) {
      const int tokens = time <= 2 || time >= 15 ? 8 : 1;
      const Completion found = complete(graphs, prompt_of(37, time), greedy(tokens));
      CHECK(found == complete(eager, prompt_of(37, time), greedy(tokens)));
      CHECK(of_graphs(graphs, "prefill_captures") == (time >= 16));
      CHECK(of_graphs(graphs, "prefill_replays") == std::max(0, time - 15));
    }
    complete(graphs, prompt_of(38), greedy(2));
    CHECK(of_graphs(graphs, "prefill_captures") == 1);
    CHECK(of_graphs(eager, "prefill_captures") == 0);
    CHECK(of_graphs(eager, "prefill_replays") == 0);
  }
  Engine never = on_device(kEager);
  for (int i = 0; i < 17; ++i) complete(never, prompt_of(37), greedy(2));
  CHECK(of_graphs(never, "prefill_captures") == 0);
}

TEST_CASE("graphs of prefills are kept for the 32 lengths used last") {
  Engine engine = on_device();
  for (int round = 1; round <= 16; ++round)
    for (int length = 10; length <= 42; ++length) complete(engine, prompt_of(length), greedy(1));
  // The 33rd length took the place of the first, which counts anew.
  CHECK(of_graphs(engine, "prefill_captures") == 32);
  CHECK(of_graphs(engine, "prefill_replays") == 32);
  complete(engine, prompt_of(42), greedy(1));
  CHECK(of_graphs(engine, "prefill_replays") == 33);
  for (int i = 0; i < 14; ++i) complete(engine, prompt_of(10), greedy(1));
  CHECK(of_graphs(engine, "prefill_captures") == 32);
  complete(engine, prompt_of(10), greedy(1));
  CHECK(of_graphs(engine, "prefill_captures") == 33);
  CHECK(of_graphs(engine, "prefill_replays") == 34);
  complete(engine, prompt_of(11), greedy(1));  // the oldest made room
  CHECK(of_graphs(engine, "prefill_replays") == 34);
}
