#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "core/error.h"
#include "sampling/sampler.h"
#include "support/random.h"

using namespace imp;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
using Row = std::vector<float>;
using Ids = std::vector<int32_t>;

Sampler make_sampler(const SamplingParams& params, int32_t vocab_size, uint64_t seed = 1, int32_t sequence_index = 0) {
  return Sampler(params, {.vocab_size = vocab_size}, seed, sequence_index);
}

SampledToken sample(Sampler& sampler, Row row) { return sampler.sample(row); }

Ids draw_many(Sampler& sampler, const Row& row, int count) {
  Ids out;
  for (int i = 0; i < count; ++i) out.push_back(sample(sampler, row).id);
  return out;
}

/// How often each id comes in `count` draws from the same row.
Ids histogram(const SamplingParams& params, const Row& row, int count, uint64_t seed = 1) {
  Sampler sampler = make_sampler(params, static_cast<int32_t>(row.size()), seed);
  Ids counts(row.size(), 0);
  for (int32_t id : draw_many(sampler, row, count)) ++counts[id];
  return counts;
}

double chi_square(const Ids& counts, const std::vector<double>& probabilities) {
  double total = 0, sum = 0;
  for (int32_t count : counts) total += count;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (probabilities[i] == 0) {
      CHECK(counts[i] == 0);
      continue;
    }
    const double expected = total * probabilities[i];
    sum += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  return sum;
}

Row logs(const std::vector<double>& probabilities) {
  Row out;
  for (double p : probabilities) out.push_back(static_cast<float>(std::log(p)));
  return out;
}

template <class Action>
std::optional<std::pair<ErrorCode, std::string>> error_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return std::pair{error.code(), std::string(error.what())};
  }
  return std::nullopt;
}

}  // namespace

TEST_CASE("temperature 0 takes the best token, the lowest of equals") {
  SamplingParams params;
  params.temperature = 0;
  Sampler sampler = make_sampler(params, 5);
  CHECK(sample(sampler, {1, 5, 2, 5, -kInf}).id == 1);
  CHECK(sample(sampler, {-3, -2, -1, -1, -9}).id == 2);
  CHECK(sampler.num_generated() == 2);
}

TEST_CASE("draws follow the distribution") {
  const std::vector<double> p = {0.4, 0.05, 0.25, 0.1, 0.2};
  const Ids counts = histogram({}, logs(p), 20000);
  // The exact counts come from an independent Philox in Python.
  CHECK(chi_square(counts, p) < 13.3);  // 1 % point of 4 degrees of freedom
  CHECK(counts == Ids{7912, 1054, 5037, 1988, 4009});

  SamplingParams cooler;
  cooler.temperature = 0.5f;
  std::vector<double> squared;
  double sum = 0;
  for (double x : p) sum += x * x;
  for (double x : p) squared.push_back(x * x / sum);
  CHECK(chi_square(histogram(cooler, logs(p), 20000), squared) < 13.3);

  SamplingParams filtered;
  filtered.top_k = 3;
  filtered.top_p = 0.7f;  // 0.4 and 0.25 of the 0.85 that top-k leaves: 0.76
  const Ids few = histogram(filtered, logs(p), 20000);
  CHECK(chi_square(few, {0.4 / 0.65, 0, 0.25 / 0.65, 0, 0}) < 6.63);  // 1 % point of 1 degree of freedom
  CHECK(few == Ids{12312, 0, 7688, 0, 0});
}

TEST_CASE("the draw depends on seed, sequence and position alone") {
  const Row row = test::Random(4).normals(300);
  Sampler a = make_sampler({}, 300, 7, 2);
  const Ids alone = draw_many(a, row, 50);

  // Another sequence between the draws changes nothing; it draws differently itself.
  Sampler b = make_sampler({}, 300, 7, 2), neighbour = make_sampler({}, 300, 7, 3);
  Ids interleaved, other;
  for (int i = 0; i < 50; ++i) {
    interleaved.push_back(sample(b, row).id);
    other.push_back(sample(neighbour, row).id);
  }
  CHECK(interleaved == alone);
  CHECK(other != alone);
  Sampler another_seed = make_sampler({}, 300, 8, 2);
  CHECK(draw_many(another_seed, row, 50) != alone);

  // A sequence that goes on from its tokens (after preemption) draws what it would have drawn.
  Sampler replay = make_sampler({}, 300, 7, 2);
  replay.accept_prompt(std::span(alone).first(20));
  CHECK(draw_many(replay, row, 30) == Ids(alone.begin() + 20, alone.end()));
}

TEST_CASE("padding rows and banned tokens are never drawn, whatever else is set") {
  SamplingParams params;
  params.banned_token_ids = {1};
  params.logit_bias = {{1, 1000.0f}, {6, 1000.0f}, {2, 1000.0f}};
  for (float temperature : {0.0f, 1.0f, 50.0f}) {
    params.temperature = temperature;
    Sampler sampler(params, {.vocab_size = 8, .tokenizer_size = 6, .banned_ids = {2}}, 1, 0);
    for (int32_t id : draw_many(sampler, {1, 90, 90, 1, 1, 1, 90, 90}, 200)) CHECK((id == 0 || (id >= 3 && id <= 5)));
  }
}

TEST_CASE("allowed tokens and the mask narrow the choice; an empty one is an error") {
  SamplingParams params;
  params.allowed_token_ids = {3, 40};
  Sampler sampler = make_sampler(params, 50);
  for (int32_t id : draw_many(sampler, Row(50, 0.0f), 100)) CHECK((id == 3 || id == 40));

  size_t seen = 0;
  sampler.set_mask([&](std::span<const int32_t> generated, std::span<uint32_t> mask) {
    CHECK(mask.size() == 2);
    CHECK(mask[0] == ~0u);
    seen = generated.size();
    mask[0] = 0;
    return true;
  });
  for (int32_t id : draw_many(sampler, Row(50, 0.0f), 20)) CHECK(id == 40);
  CHECK(seen == 119);

  for (float temperature : {0.0f, 1.0f}) {
    params.temperature = temperature;
    Sampler empty = make_sampler(params, 50);
    empty.set_mask([](std::span<const int32_t>, std::span<uint32_t> mask) {
      std::fill(mask.begin(), mask.end(), 0);
      return true;
    });
    const auto error = error_of([&] { sample(empty, Row(50, 0.0f)); });
    REQUIRE(error);
    CHECK(error->first == ErrorCode::invalid_argument);
    CHECK(error->second.find("no token may be drawn at position 0") == 0);
    CHECK(empty.num_generated() == 0);
  }
}

TEST_CASE("a grammar that cannot go on ends the sequence") {
  Sampler sampler = make_sampler({}, 4);
  sampler.set_mask([](std::span<const int32_t>, std::span<uint32_t>) { return false; });
  CHECK(sample(sampler, {1, 2, 3, 4}).id == -1);
  CHECK(sampler.num_generated() == 0);
}

TEST_CASE("a damaged row is an internal error with counts") {
  for (float temperature : {0.0f, 1.0f}) {
    SamplingParams params;
    params.temperature = temperature;
    Sampler sampler = make_sampler(params, 4);
    sampler.accept_prompt(Ids{1, 2, 3});
    for (const Row& row : {Row{1, kNan, 2, kNan}, Row{kInf, 1, 2, 3}, Row(4, -kInf)}) {
      const auto error = error_of([&] { sample(sampler, row); });
      REQUIRE(error);
      CHECK(error->first == ErrorCode::internal);
      CHECK(error->second.find("the logits at position 3 are damaged: of 4 values, ") == 0);
    }
    CHECK(sample(sampler, {1, 2, 3, -kInf}).id >= 0);  // the sampler goes on
  }
}

TEST_CASE("stop tokens are banned until min_tokens") {
  SamplingParams params;
  params.temperature = 0;
  params.min_tokens = 2;
  params.stop_token_ids = {1};
  Sampler sampler(params, {.vocab_size = 4, .stop_ids = {2}}, 1, 0);
  sampler.accept_prompt(Ids{0, 0, 0});
  CHECK(draw_many(sampler, {1, 3, 2, 0}, 3) == Ids{0, 0, 1});
}

TEST_CASE("penalties look at the prompt and at what was drawn, in their window") {
  SamplingParams params;
  params.temperature = 0;
  params.presence_penalty = 2;
  params.penalty_last_n = 2;
  Sampler sampler = make_sampler(params, 4);
  sampler.accept_prompt(Ids{3});
  CHECK(draw_many(sampler, {2, 3, 2.5f, 3.5f}, 4) == Ids{1, 2, 3, 1});
  params.penalty_last_n = 0;
  Sampler off = make_sampler(params, 4);
  CHECK(draw_many(off, {2, 3, 2.5f, 3.5f}, 3) == Ids{3, 3, 3});
}

TEST_CASE("DRY ends a loop, and its breakers come from the vocabulary") {
  SamplingParams params;
  params.temperature = 0;
  params.dry_multiplier = 1;
  const Row row = {0, 1, 0.5f, 0.2f};
  Sampler sampler = make_sampler(params, 4);
  const Ids text = draw_many(sampler, row, 6);
  CHECK(text == Ids{1, 1, 1, 2, 1, 1});
  Sampler broken(params, {.vocab_size = 4, .dry_breakers = {{1}}}, 1, 0);
  CHECK(draw_many(broken, row, 6) == Ids(6, 1));
}

TEST_CASE("mirostat replaces the filters and holds the surprise") {
  SamplingParams params;
  params.mirostat = 2;
  params.mirostat_tau = 3;
  params.top_k = 1;  // would leave one token and no surprise
  params.logprobs = 0;
  Row row(5000);
  for (size_t i = 0; i < row.size(); ++i) row[i] = -std::log(static_cast<float>(i + 1));
  Sampler sampler = make_sampler(params, 5000);
  double sum = 0;
  for (int i = 0; i < 1200; ++i) {
    const SampledToken token = sample(sampler, row);
    if (i >= 200) sum -= token.logprob / std::log(2.0);
  }
  CHECK(sum / 1000 == doctest::Approx(3).epsilon(0.05));
}

TEST_CASE("a forced token is drawn whatever the logits say") {
  SamplingParams params;
  params.logprobs = 0;
  params.banned_token_ids = {2};
  Sampler sampler = make_sampler(params, 4);
  sampler.force_next(2);
  const SampledToken token = sample(sampler, {0, 0, 0, 0});
  CHECK(token.id == 2);
  CHECK(token.logprob == doctest::Approx(-std::log(4.0)));
  CHECK(sampler.num_generated() == 1);
  for (int32_t id : draw_many(sampler, {0, 0, 0, 0}, 50)) CHECK(id != 2);
  CHECK(error_of([&] { sampler.force_next(4); })->first == ErrorCode::internal);
}

TEST_CASE("logprobs are those of the raw row") {
  SamplingParams params;
  params.temperature = 0;
  params.logprobs = 3;
  params.logit_bias = {{4, 100.0f}};
  params.banned_token_ids = {1};
  const Row row = {2, 6, 1, 6, 0.5f, -kInf};
  Sampler sampler = make_sampler(params, 6);
  const SampledToken token = sample(sampler, row);
  double sum = 0;
  for (float x : row) sum += std::exp(static_cast<double>(x));
  CHECK(token.id == 4);
  CHECK(token.rank == 5);
  CHECK(token.logprob == doctest::Approx(0.5 - std::log(sum)));
  CHECK(token.top_ids == Ids{1, 3, 0});
  REQUIRE(token.top_logprobs.size() == 3);
  CHECK(token.top_logprobs[0] == doctest::Approx(6 - std::log(sum)));
  CHECK(token.top_logprobs[2] == doctest::Approx(2 - std::log(sum)));

  params.logprobs = -1;
  Sampler without = make_sampler(params, 6);
  CHECK(sample(without, row).top_ids.empty());
}

TEST_CASE("wrong calls") {
  Sampler sampler = make_sampler({}, 4);
  CHECK(error_of([&] { sample(sampler, {1, 2, 3}); })->first == ErrorCode::internal);
  CHECK(error_of([&] { sampler.accept_prompt(Ids{4}); })->first == ErrorCode::invalid_argument);
  SamplingParams bad;
  bad.top_p = 0;
  CHECK(error_of([&] { make_sampler(bad, 4); })->second.find("top_p") != std::string::npos);
}
