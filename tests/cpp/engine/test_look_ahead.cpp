#include <doctest/doctest.h>

#include <functional>
#include <optional>

#include "core/error.h"
#include "engine/engine.h"
#include "support/engine_runs.h"

// Tokens drawn by the backend, and steps launched before the host has looked at them: nobody may notice.

using namespace imp;
using namespace imp::test;

namespace {

using Results = std::map<std::pair<RequestId, int>, Completion>;

constexpr const char* kModes[] = {"host", "device", "ahead"};

struct Load {
  std::vector<TokenId> prompt;
  SamplingParams params;
  int submit_at = 0;   // steps done before
  int cancel_at = -1;  // the same
};

/// Runs all of it, step by step, checking the order of things on the way.
Results run(Engine& engine, const std::vector<Load>& loads) {
  Results all;
  std::vector<RequestId> ids(loads.size(), -1);
  const auto waits = [&](int step) {
    return std::any_of(loads.begin(), loads.end(), [&](const Load& load) { return load.submit_at >= step; });
  };
  for (int step = 0; engine.has_work() || waits(step); ++step) {
    for (size_t i = 0; i < loads.size(); ++i) {
      if (loads[i].submit_at == step) ids[i] = engine.submit(loads[i].prompt, loads[i].params);
      if (loads[i].cancel_at == step) engine.cancel(ids[i]);
    }
    for (TokenEvent& event : engine.step()) {
      const auto which = std::find(ids.begin(), ids.end(), event.request) - ids.begin();
      Completion& out = all[{which, event.index}];
      REQUIRE(out.finish == FinishReason::none);
      REQUIRE(event.tokens.size() <= 1);
      out.tokens.insert(out.tokens.end(), event.tokens.begin(), event.tokens.end());
      out.text += event.text;
      out.finish = event.finish;
      out.stop_reason = event.stop_reason;
      out.logprobs.insert(out.logprobs.end(), event.logprobs.begin(), event.logprobs.end());
    }
    REQUIRE(step < 5000);
  }
  for (RequestId id : ids) engine.forget(id);
  CHECK(report_number(engine.report_json(), {"kv", "blocks_used"}) == 0);
  CHECK(report_number(engine.report_json(), {"scheduler", "running"}) == 0);
  return all;
}

void check_equal(const Results& expected, const Results& found) {
  REQUIRE(found.size() == expected.size());
  for (const auto& [key, out] : expected) {
    CAPTURE(key.first);
    CAPTURE(key.second);
    const Completion& other = found.at(key);
    CHECK(other.tokens == out.tokens);
    CHECK(other.text == out.text);
    CHECK(other.finish == out.finish);
    CHECK(other.stop_reason == out.stop_reason);
    REQUIRE(other.logprobs.size() == out.logprobs.size());
    for (size_t t = 0; t < out.logprobs.size(); ++t) {
      REQUIRE(other.logprobs[t].size() == out.logprobs[t].size());
      for (size_t i = 0; i < out.logprobs[t].size(); ++i) {
        CHECK(other.logprobs[t][i].id == out.logprobs[t][i].id);
        CHECK(other.logprobs[t][i].rank == out.logprobs[t][i].rank);
        CHECK(other.logprobs[t][i].logprob == doctest::Approx(out.logprobs[t][i].logprob).epsilon(1e-5));
      }
    }
  }
}

/// What `mode` gives for the loads; each of the three must give the same.
Results in_all_modes(const std::vector<Load>& loads, uint64_t budget_bytes = 0, const Overrides& overrides = {}) {
  std::optional<Results> first;
  for (const char* mode : kModes) {
    CAPTURE(mode);
    Engine engine = make_engine(overrides, "tiny-llama", budget_bytes, mode);
    const Results found = run(engine, loads);
    if (first)
      check_equal(*first, found);
    else
      first = found;
  }
  return *first;
}

double sampling_number(const Engine& engine, const std::string& key) {
  return report_number(engine.report_json(), {"sampling", key});
}

}  // namespace

TEST_CASE("requests that come and end at different times") {
  std::vector<Load> loads;
  for (int i = 0; i < 9; ++i) loads.push_back({prompt_of(5 + 23 * i, i), greedy(3 + 7 * (i % 4)), 4 * (i / 2)});
  const Results all = in_all_modes(loads);
  for (size_t i = 0; i < loads.size(); ++i)
    CHECK(all.at({static_cast<int>(i), 0}).tokens.size() == static_cast<size_t>(loads[i].params.max_tokens));
}

TEST_CASE("stop ids and stop strings end a sequence whose next step is under way") {
  Engine engine = make_engine();
  const Completion whole = complete(engine, prompt_of(12), greedy(40));
  std::vector<Load> loads;
  for (size_t i = 2; i < 30; i += 9) {
    SamplingParams by_id = greedy(40), by_text = greedy(40);
    by_id.stop_token_ids = {whole.tokens[i]};
    by_text.stop = {whole.text.substr(whole.text.size() * i / 40, 3)};
    loads.push_back({prompt_of(12), by_id, 0});
    loads.push_back({prompt_of(12), by_text, 5});
    loads.push_back({prompt_of(90, static_cast<int>(i)), greedy(25), 3});
  }
  const Results all = in_all_modes(loads);
  CHECK(all.at({0, 0}).finish == FinishReason::stop);
  Engine ahead = make_engine({}, "tiny-llama", 0, "ahead");
  check_equal(all, run(ahead, loads));
  CHECK(sampling_number(ahead, "discarded_draws") > 0);
  CHECK(sampling_number(ahead, "steps_ahead") > 20);
  CHECK(sampling_number(ahead, "host_draws") == 0);
}

TEST_CASE("what is known to be the last token starts no step in vain") {
  Engine engine = make_engine({{"runtime.max_seq_len", "40"}}, "tiny-llama", 0, "ahead");
  const int64_t before = static_cast<int64_t>(report_number(engine.report_json(), {"timings", "forward_batches"}));
  CHECK(complete(engine, prompt_of(10), greedy(7)).tokens.size() == 7);
  CHECK(complete(engine, prompt_of(30), greedy(-1)).tokens.size() == 10);  // the context's end
  CHECK(report_number(engine.report_json(), {"timings", "forward_batches"}) - before == 17);
  CHECK(sampling_number(engine, "discarded_draws") == 0);
}

TEST_CASE("cancelled while a step is under way: nothing comes after") {
  std::vector<Load> loads;
  for (int i = 0; i < 6; ++i) loads.push_back({prompt_of(20, i), greedy(60), 0, i % 2 ? 9 : -1});
  Engine engine = make_engine({}, "tiny-llama", 0, "ahead"), host = make_engine({}, "tiny-llama", 0, "host");
  const Results ahead = run(engine, loads), expected = run(host, loads);
  for (int i = 0; i < 6; i += 2) CHECK(ahead.at({i, 0}) == expected.at({i, 0}));
  for (int i = 1; i < 6; i += 2) {
    CHECK(ahead.at({i, 0}).finish == FinishReason::cancelled);
    CHECK(ahead.at({i, 0}).tokens == expected.at({i, 0}).tokens);
  }
}

TEST_CASE("several sequences of one request, seeds, and requests that the host draws for") {
  std::vector<Load> loads;
  for (int i = 0; i < 6; ++i) {
    Load load{prompt_of(15 + i, i), greedy(20), 3 * i};
    if (i % 3 == 0) load.params.n = 3;
    if (i % 2 == 1) load.params.temperature = 0.9f, load.params.seed = 11, load.params.typical_p = 0.9f;
    loads.push_back(load);
  }
  in_all_modes(loads);
  Engine engine = make_engine({}, "tiny-llama", 0, "ahead");
  run(engine, loads);
  CHECK(sampling_number(engine, "host_draws") > 0);
  CHECK(sampling_number(engine, "device_draws") > 0);
  CHECK(report_number(engine.report_json(), {"sampling", "host_requests", "typical_p"}) == 3);
}

TEST_CASE("every parameter that the backend can serve gives the host's tokens") {
  std::vector<Load> loads;
  for (int i = 0; i < 14; ++i) {
    Load load{prompt_of(10 + 7 * i, i), greedy(24), 2 * i};
    SamplingParams& params = load.params;
    params.ignore_eos = i % 4 != 0;
    params.seed = 5 + i;
    params.temperature = i % 5 == 0 ? 0.0f : 1.1f;
    if (i % 2) params.top_k = 12 + i;
    if (i % 3 == 0) params.top_p = 0.9f;
    if (i % 7 == 3) params.min_p = 0.02f;
    if (i % 4 == 1) params.repetition_penalty = 1.3f, params.penalty_last_n = i % 8 == 1 ? 5 : -1;
    if (i % 4 == 2) params.frequency_penalty = 0.8f, params.presence_penalty = 0.3f, params.penalty_last_n = 1;
    if (i % 5 == 1) params.logit_bias = {{40, 3.0f}, {41, -4.0f}};
    if (i % 5 == 2) params.banned_token_ids = {60, 61, 62};
    if (i % 5 == 3) params.allowed_token_ids = {30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46};
    if (i % 5 == 4) params.min_tokens = 20, params.stop_token_ids = {50, 51, 52, 53, 54, 55};
    if (i % 6 == 0) params.n = 2;
    if (i % 3 == 1) params.logprobs = 4;
    loads.push_back(load);
  }
  in_all_modes(loads);
  Engine engine = make_engine({}, "tiny-llama", 0, "ahead");
  run(engine, loads);
  CHECK(contains(engine.report_json(), "\"host_requests\":{}"));
  CHECK(sampling_number(engine, "device_draws") > 200);
}

TEST_CASE("sequences that lose their blocks while a step is under way") {
  std::vector<Load> loads;
  for (int i = 0; i < 5; ++i) {
    loads.push_back({prompt_of(30 + i, i), greedy(60), i});
    if (i % 2) loads.back().params.repetition_penalty = 1.2f, loads.back().params.penalty_last_n = 9;
  }
  // What leaves 12 blocks to 4 sequences that want up to 6 each is found by asking for ever less.
  uint64_t budget = uint64_t{1900} << 10;
  for (;; budget += 4096) {
    try {
      if (make_engine({}, "tiny-llama", budget).max_seq_len() >= 12 * 16) break;
    } catch (const Error&) {  // not even a short context fits
    }
  }
  const Results all = in_all_modes(loads, budget);
  for (int i = 0; i < 5; ++i) CHECK(all.at({i, 0}).tokens.size() == 60);
  Engine engine = make_engine({}, "tiny-llama", budget, "ahead");
  run(engine, loads);
  CHECK(report_number(engine.report_json(), {"scheduler", "preemptions"}) > 0);
}

TEST_CASE("other passes and reset() between the steps") {
  Engine engine = make_engine({}, "tiny-llama", 0, "ahead"), quiet = make_engine();
  const std::vector<float> logits = quiet.logits(prompt_of(33), true);
  const RequestId id = engine.submit(prompt_of(20), greedy(30));
  Completion out;
  while (engine.has_work()) {
    for (const TokenEvent& event : engine.step())
      out.tokens.insert(out.tokens.end(), event.tokens.begin(), event.tokens.end());
    CHECK(engine.logits(prompt_of(33), true) == logits);
    engine.logits(prompt_of(7), false);
  }
  CHECK(out.tokens == complete(quiet, prompt_of(20), greedy(30)).tokens);
  engine.forget(id);

  engine.submit(prompt_of(20), greedy(50));
  for (int i = 0; i < 5; ++i) engine.step();
  engine.reset();
  CHECK_FALSE(engine.has_work());
  CHECK(complete(engine, prompt_of(8), greedy(4)) == complete(quiet, prompt_of(8), greedy(4)));
}

TEST_CASE("other passes between a step's launch and the draws that the host makes of it") {
  Engine engine = make_engine({}, "tiny-llama", 0, "ahead"), quiet = make_engine();
  SamplingParams params = greedy(6);
  params.typical_p = 0.5f;
  params.prompt_logprobs = 1;
  const RequestId expected_id = quiet.submit(prompt_of(12), params);
  const auto expected = finish_all(quiet);
  engine.submit(prompt_of(20), greedy(30));
  for (int i = 0; i < 4; ++i) engine.step();
  const RequestId id = engine.submit(prompt_of(12), params);
  Results found;
  while (engine.has_work()) {
    for (const TokenEvent& event : engine.step()) {
      auto& tokens = found[{event.request, event.index}].tokens;
      tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
    }
    engine.logits(prompt_of(33), true);
  }
  CHECK(found.at({id, 0}).tokens == expected.at({expected_id, 0}).tokens);
  const auto rows = engine.prompt_logprobs(id), wanted = quiet.prompt_logprobs(expected_id);
  REQUIRE(rows.size() == wanted.size());
  for (size_t t = 1; t < rows.size(); ++t) CHECK(rows[t].at(0).logprob == wanted[t].at(0).logprob);
}

TEST_CASE("prompt logprobs beside sequences that run ahead") {
  std::vector<std::vector<std::vector<TokenLogprob>>> found;
  for (const char* mode : kModes) {
    Engine engine = make_engine({}, "tiny-llama", 0, mode);
    engine.submit(prompt_of(20), greedy(30));
    for (int i = 0; i < 4; ++i) engine.step();
    SamplingParams params = greedy(5);
    params.prompt_logprobs = 2;
    const RequestId id = engine.submit(prompt_of(150), params);
    const auto all = finish_all(engine);
    CHECK(all.at({id, 0}).tokens == complete(engine, prompt_of(150), greedy(5)).tokens);
    found.push_back(engine.prompt_logprobs(id));
  }
  for (const auto& rows : found) {
    REQUIRE(rows.size() == 150);
    for (size_t t = 1; t < rows.size(); ++t)
      for (size_t i = 0; i < 3; ++i) CHECK(rows[t].at(i).logprob == found[0][t].at(i).logprob);
  }
}

TEST_CASE("the report says where tokens are drawn") {
  Engine engine = make_engine();
  complete(engine, prompt_of(9), greedy(4));
  CHECK(contains(engine.report_json(), "\"sampling\":{\"where\":\"host\",\"reason\":\"the logits of cpu are"));
  CHECK(sampling_number(engine, "host_draws") == 4);
  CHECK(sampling_number(engine, "device_draws") == 0);
}

TEST_CASE("force_sampling is checked") {
  CHECK_THROWS_WITH_AS(make_engine({}, "tiny-llama", 0, "gpu"), doctest::Contains("expected host, device or ahead"),
                       Error);
}
