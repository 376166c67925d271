#include <doctest/doctest.h>

#include "reference/reference.h"
#include "sampling/sampler.h"
#include "support/random.h"

// The op that draws tokens and the host's Sampler are two ways to one token.

using namespace imp;
using namespace imp::test;

TEST_CASE("sample() draws what a Sampler draws, step after step") {
  Random random(1);
  constexpr int32_t kVocab = 700, kSteps = 30;
  for (int trial = 0; trial < 60; ++trial) {
    SamplingParams params;
    const auto maybe = [&](auto value, auto neutral) { return random.integer(0, 1) ? value : neutral; };
    params.temperature = maybe(0.8f, random.integer(0, 1) ? 1.5f : 0.0f);
    params.top_k = maybe(50, 0);
    params.top_p = maybe(0.9f, 1.0f);
    params.min_p = maybe(0.02f, 0.0f);
    params.repetition_penalty = maybe(1.2f, 1.0f);
    params.frequency_penalty = maybe(0.3f, 0.0f);
    params.presence_penalty = maybe(-0.5f, 0.0f);
    params.penalty_last_n = maybe(8, -1);
    params.logprobs = maybe(3, -1);
    if (random.integer(0, 1)) params.logit_bias = {{3, 4.0f}, {77, -2.0f}};
    if (random.integer(0, 1)) params.banned_token_ids = {1, 2, 500};
    const uint64_t seed = random.bits();
    CAPTURE(trial);
    REQUIRE(parameter_for_host(params, kMaxSampleTopK) == "");

    std::vector<int32_t> history;
    for (int i = 0; i < 12; ++i) history.push_back(static_cast<int32_t>(random.integer(0, 40)));
    Sampler sampler(params, {.vocab_size = kVocab}, seed, 2);
    sampler.accept_prompt(history);
    std::vector<uint32_t> allowed((kVocab + 31) / 32, ~0u);
    for (int32_t id : params.banned_token_ids) allowed[static_cast<size_t>(id) / 32] &= ~(1u << (id % 32));
    std::vector<int32_t> counts(kVocab, 0);
    for (const auto& [id, count] : sampler.counts()) counts[static_cast<size_t>(id)] = count;
    std::vector<float> bias(kVocab, 0);
    for (const auto& [id, amount] : params.logit_bias) bias[static_cast<size_t>(id)] = amount;

    for (int step = 0; step < kSteps; ++step) {
      std::vector<float> logits(kVocab);
      for (float& x : logits) x = 3 * random.normal();
      SampleRow row{.counts = 0,
                    .bias = 0,
                    .temperature = params.temperature,
                    .top_k = params.top_k,
                    .top_p = params.top_p,
                    .min_p = params.min_p,
                    .repetition_penalty = params.repetition_penalty,
                    .frequency_penalty = params.frequency_penalty,
                    .presence_penalty = params.presence_penalty,
                    .seed_low = static_cast<uint32_t>(seed),
                    .seed_high = static_cast<uint32_t>(seed >> 32),
                    .stream = 2,
                    .position = static_cast<uint32_t>(history.size()),
                    .logprobs = params.logprobs};
      const int64_t leaving = static_cast<int64_t>(history.size()) - 1 - params.penalty_last_n;
      if (step > 0 && params.penalty_last_n > 0 && leaving >= 0) row.leaves = history[static_cast<size_t>(leaving)];
      int32_t id = -1;
      SampleResult result;
      reference::sample({.logits = f32_view(logits.data(), 1, kVocab),
                         .rows = &row,
                         .num_rows = 1,
                         .plain = false,
                         .allowed = allowed.data(),
                         .counts = counts.data(),
                         .bias = bias.data(),
                         .ids = &id,
                         .results = &result});
      const SampledToken wanted = sampler.sample(logits);
      REQUIRE(id == wanted.id);
      CHECK(result.id == wanted.id);
      CHECK(result.rank == wanted.rank);
      CHECK(result.logprob == wanted.logprob);
      CHECK(std::vector<int32_t>(result.top_ids, result.top_ids + result.num_top) == wanted.top_ids);
      history.push_back(id);
    }
  }
}
