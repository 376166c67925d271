#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "reference/reference.h"
#include "sample/sample_filtered.h"
#include "sample/sample_greedy.h"
#include "support/cuda_device.h"
#include "support/few.h"
#include "support/random.h"

using namespace imp;
using namespace imp::test;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Problem {
  int64_t vocab_size, num_logit_rows;
  std::vector<float> logits;
  std::vector<SampleRow> rows;
  std::vector<uint32_t> allowed;  // one mask or more
  std::vector<int32_t> counts;    // one state, or none
  std::vector<float> bias;

  size_t mask_words() const { return static_cast<size_t>(vocab_size + 31) / 32; }
  float* logits_of(size_t row) { return logits.data() + row * static_cast<size_t>(vocab_size); }
};

SampleArgs args_of(const Problem& p, const float* logits, const SampleRow* rows, const uint32_t* allowed,
                   int32_t* counts, const float* bias, int32_t* ids, SampleResult* results) {
  return {.logits = {const_cast<float*>(logits), DType::f32, p.num_logit_rows, p.vocab_size, p.vocab_size},
          .rows = rows,
          .num_rows = static_cast<int>(p.rows.size()),
          .plain = std::all_of(p.rows.begin(), p.rows.end(), [](const SampleRow& row) { return row.is_plain(); }),
          .allowed = allowed,
          .counts = counts,
          .bias = bias,
          .ids = ids,
          .results = results};
}

void check_result(const SampleResult& expected, const SampleResult& found) {
  CHECK(found.id == expected.id);
  CHECK(found.num_nan == expected.num_nan);
  CHECK(found.num_inf == expected.num_inf);
  CHECK(found.num_neg_inf == expected.num_neg_inf);
  CHECK(found.rank == expected.rank);
  CHECK(std::abs(found.logprob - expected.logprob) <= 2e-6f * (1 + std::abs(expected.logprob)));
  REQUIRE(found.num_top == expected.num_top);
  for (int i = 0; i < found.num_top; ++i) {
    CHECK(found.top_ids[i] == expected.top_ids[i]);
    CHECK(std::abs(found.top_logprobs[i] - expected.top_logprobs[i]) <=
          2e-6f * (1 + std::abs(expected.top_logprobs[i])));
  }
}

/// Runs the problem with the kernels that can, and with the reference.
void check(const Problem& p, TestDevice& device) {
  std::vector<int32_t> expected_ids(p.rows.size(), -7), expected_counts = p.counts;
  std::vector<SampleResult> expected(p.rows.size() + 3);
  reference::sample(args_of(p, p.logits.data(), p.rows.data(), p.allowed.data(), expected_counts.data(), p.bias.data(),
                            expected_ids.data(), expected.data()));
  const DeviceArray<float> logits(p.logits), bias(p.bias);
  const DeviceArray<SampleRow> rows(p.rows);
  const DeviceArray<uint32_t> allowed(p.allowed);
  const DeviceArray<int32_t> ids(std::vector<int32_t>(p.rows.size(), -7));
  const DeviceArray<cuda::GreedyPartial> partial(
      std::vector<cuda::GreedyPartial>(p.rows.size() * cuda::kMaxGreedyBlocks));
  const DeviceArray<unsigned> arrived(std::vector<unsigned>(p.rows.size(), 0));
  const DeviceArray<float> scratch(std::vector<float>(p.rows.size() * static_cast<size_t>(p.vocab_size), -5));
  for (int run = 0; run < 4; ++run) {
    const bool filtered = run >= 2;
    const DeviceArray<int32_t> counts(p.counts);
    const DeviceArray<SampleResult> results(std::vector<SampleResult>(p.rows.size() + 3));
    const SampleArgs args =
        args_of(p, logits.data(), rows.data(), allowed.data(), counts.data(), bias.data(), ids.data(), results.data());
    if (!filtered && !args.plain) continue;
    if (filtered)
      cuda::sample_filtered(args, scratch.data(), device.context(true));
    else
      cuda::sample_greedy(args, {partial.data(), arrived.data()}, device.context(true));
    CAPTURE(p.vocab_size);
    CAPTURE(p.rows.size());
    CAPTURE(filtered);
    CHECK(ids.download() == expected_ids);
    CHECK(counts.download() == expected_counts);
    const std::vector<SampleResult> found = results.download();
    for (size_t r = 0; r < p.rows.size(); ++r) {
      const SampleRow& how = p.rows[r];
      CAPTURE(r);
      CAPTURE(how.temperature);
      CAPTURE(how.top_k);
      CAPTURE(how.top_p);
      CAPTURE(how.min_p);
      check_result(expected[static_cast<size_t>(how.result)], found[static_cast<size_t>(how.result)]);
    }
    scratch.download();
  }
}

Problem random_problem(int64_t vocab_size, int num_draws, Random& random) {
  Problem p{vocab_size, num_draws + 2, random.outlier_heavy(num_draws + 2, vocab_size), {}, {}, {}, {}};
  p.allowed.assign(p.mask_words(), ~uint32_t{0});
  for (int r = 0; r < num_draws; ++r)
    p.rows.push_back(
        {.logits_row = static_cast<int32_t>(random.integer(0, num_draws + 1)), .result = num_draws + 2 - r});
  return p;
}

template <class T>
T one_of(Random& random, std::initializer_list<T> values) {
  return values.begin()[random.integer(0, static_cast<int64_t>(values.size()) - 1)];
}

/// Rows as a language model makes them, and rows that no model makes.
void reshape_rows(Problem& p, Random& random) {
  for (size_t row = 0; row < static_cast<size_t>(p.num_logit_rows); ++row) {
    float* x = p.logits_of(row);
    const int64_t kind = random.integer(0, 5);
    for (int64_t i = 0; i < p.vocab_size; ++i) {
      if (kind == 0) x[i] = random.normal() * 3 - 5;              // flat
      if (kind == 1) x[i] = std::round(random.normal() * 4) / 2;  // many ties
      if (kind == 2) x[i] = 1.25f;                                // nothing but ties
      if (kind == 3) x[i] = random.integer(0, 9) ? -kInf : random.normal();
      if (kind == 4) x[i] = random.normal() * 1e30f;
    }
    if (kind == 0 || kind == 1)
      for (int i = 0; i < 8; ++i) x[random.integer(0, p.vocab_size - 1)] = 12 + 2 * random.normal();
  }
}

void randomize_rows(Problem& p, Random& random) {
  for (SampleRow& row : p.rows) {
    row.temperature = one_of(random, {0.0f, 1e-6f, 0.3f, 0.7f, 1.0f, 1.0f, 1.7f, 20.0f, 1e6f});
    row.top_k = one_of(random, {0, 0, 0, 1, 2, 40, 200, 1000, 1024});
    row.top_p = one_of(random, {1.0f, 1.0f, 0.95f, 0.9f, 0.5f, 1e-6f, 0.9999f});
    row.min_p = one_of(random, {0.0f, 0.0f, 0.05f, 0.5f, 1e-5f});
    row.seed_low = static_cast<uint32_t>(random.bits());
    row.seed_high = static_cast<uint32_t>(random.bits());
    row.stream = static_cast<uint32_t>(random.integer(0, 5));
    row.position = static_cast<uint32_t>(random.integer(0, 100000));
    row.logprobs = one_of(random, {-1, -1, 0, 1, 5, 20});
    if (row.top_k >= p.vocab_size) row.top_k = 0;
  }
}

}  // namespace

TEST_CASE("greedy: the largest allowed logit, the lowest index of equals, for every size and number of rows") {
  Random random(1);
  TestDevice device;
  for (int64_t vocab_size : few({1, 31, 255, 1000, 32000, 32003, 151936, 262144}, {1, 255, 2003})) {
    for (int num_draws : few({1, 2, 7, 64}, {1, 7})) {
      Problem p = random_problem(vocab_size, num_draws, random);
      check(p, device);
      // Many equal values, and half of the tokens banned.
      for (float& x : p.logits) x = std::round(x * 2) / 2;
      for (uint32_t& word : p.allowed) word = static_cast<uint32_t>(random.bits());
      check(p, device);
    }
  }
}

TEST_CASE("damaged rows are counted, and rows without an allowed token give none") {
  Random random(2);
  TestDevice device;
  const int64_t vocab_size = few(50001, 701);
  Problem p = random_problem(vocab_size, 6, random);
  for (int r = 0; r < 6; ++r) p.rows[static_cast<size_t>(r)].logits_row = r;
  p.logits_of(0)[17] = std::nanf("");
  p.logits_of(0)[vocab_size - 1] = -std::nanf("");
  p.logits_of(1)[vocab_size / 2] = kInf;
  for (int64_t i = 0; i < p.vocab_size; ++i) {
    p.logits_of(2)[i] = -kInf;
    p.logits_of(3)[i] = i == few(40000, 600) ? -3e38f : -kInf;
    p.logits_of(5)[i] = 0;
  }
  p.logits_of(4)[3] = -kInf;
  for (float temperature : {0.0f, 1.0f}) {
    for (uint32_t allowed : {~0u, 0x80u, 0u}) {
      p.allowed.assign(p.mask_words(), allowed == ~0u ? allowed : 0u);
      p.allowed[3] = allowed;
      for (SampleRow& row : p.rows) row.temperature = temperature;
      check(p, device);
    }
  }
}

TEST_CASE("filters, draws and log-probabilities are those of the host, for any row") {
  Random random(3);
  TestDevice device;
  for (int64_t vocab_size : few({1, 33, 500, 3000, 3001, 32003}, {33, 701})) {
    for (int repeat = 0; repeat < few(vocab_size < 10000 ? 12 : 4, 1); ++repeat) {
      Problem p = random_problem(vocab_size, few(64, 8), random);
      reshape_rows(p, random);
      randomize_rows(p, random);
      check(p, device);
    }
  }
  for (int64_t vocab_size : few({151936, 262144}, {2003})) {
    Problem p = random_problem(vocab_size, few(48, 2), random);
    reshape_rows(p, random);
    randomize_rows(p, random);
    check(p, device);
  }
}

TEST_CASE("masks, biases and penalties") {
  Random random(4);
  TestDevice device;
  for (int64_t vocab_size : few({64, 1000, 40001}, {64, 701})) {
    for (int repeat = 0; repeat < few(4, 1); ++repeat) {
      Problem p = random_problem(vocab_size, 16, random);
      reshape_rows(p, random);
      randomize_rows(p, random);
      const size_t size = static_cast<size_t>(vocab_size);
      p.allowed.resize(17 * p.mask_words());
      for (size_t word = p.mask_words(); word < p.allowed.size(); ++word)
        p.allowed[word] = static_cast<uint32_t>(random.bits() | random.bits());
      p.counts.assign(16 * size, 0);
      for (int i = 0; i < 16 * 40; ++i) p.counts[static_cast<size_t>(random.integer(0, 16 * vocab_size - 1))] += 1;
      p.bias.assign(16 * size, 0);
      for (int i = 0; i < 16 * 20; ++i)
        p.bias[static_cast<size_t>(random.integer(0, 16 * vocab_size - 1))] = 5 * random.normal();
      for (size_t r = 0; r < p.rows.size(); ++r) {
        SampleRow& row = p.rows[r];
        const auto state = static_cast<int32_t>(r);
        row.mask = one_of(random, {0, state + 1});
        row.bias = one_of(random, {-1, state});
        row.counts = one_of(random, {-1, state, state});
        row.leaves = -1;
        for (int32_t id = 0; id < vocab_size; ++id)
          if (p.counts[r * size + static_cast<size_t>(id)] > 0 && random.integer(0, 1)) row.leaves = id;
        row.repetition_penalty = one_of(random, {1.0f, 1.3f, 0.8f});
        row.frequency_penalty = one_of(random, {0.0f, 0.7f, -0.4f});
        row.presence_penalty = one_of(random, {0.0f, 0.6f});
      }
      check(p, device);
    }
  }
}
