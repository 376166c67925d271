#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include "core/error.h"
#include "support/engine_runs.h"

// The whole engine with the CUDA backend under it.

using namespace imp;
using namespace imp::test;

namespace {

Engine on_device(const Overrides& overrides = {}, const std::string& name = "tiny-llama",
                 const std::string& device = "cuda", const std::string& force_sampling = "") {
  Config config;
  for (const auto& [key, value] : overrides) config.set(key, value);
  return Engine({.model_path = tiny_model(name),
                 .device = device,
                 .num_threads = 1,
                 .memory_budget_bytes = uint64_t{512} << 20,
                 .force_isa = {},
                 .force_linear = {},
                 .force_sampling = force_sampling},
                std::move(config));
}

constexpr const char* kModels[] = {"tiny-llama", "tiny-llama-q8_0", "tiny-qwen2", "tiny-qwen3-q4_k", "tiny-gemma3"};

/// Times are taken between ops, so that steps are never replayed.
const Overrides kEager = {{"diagnostics.profile", "true"}};

int64_t free_bytes() {
  size_t free = 0, total = 0;
  REQUIRE(cudaMemGetInfo(&free, &total) == cudaSuccess);
  return static_cast<int64_t>(free);
}

}  // namespace

TEST_CASE("greedy text is the same with graphs and without, alone and beside others") {
  for (const std::string name : kModels) {
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
  for (const std::string name : kModels) {
    CAPTURE(name);
    Engine engines[] = {on_device({}, name, "cuda", "host"), on_device({}, name, "cuda", "device"),
                        on_device({}, name, "cuda", "ahead")};
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
    on_device({}, "tiny-llama", "cuda:99");
    FAIL("made an engine on device 99");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::invalid_argument);
    CHECK(contains(error.what(), "there is no CUDA device 99"));
  }
}
