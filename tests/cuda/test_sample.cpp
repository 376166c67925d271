#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "reference/reference.h"
#include "sample/sample_greedy.h"
#include "support/cuda_device.h"
#include "support/random.h"

using namespace imp;
using namespace imp::test;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

/// What the kernel and the reference make of the rows, in the same order of fields.
struct Drawn {
  std::vector<int32_t> ids;
  std::vector<SampleResult> results;
};

struct Problem {
  int64_t vocab_size, num_logit_rows;
  std::vector<float> logits;
  std::vector<SampleRow> rows;
  std::vector<uint32_t> allowed;  // empty: all
};

SampleArgs args_of(const Problem& p, const float* logits, const SampleRow* rows, const uint32_t* allowed, int32_t* ids,
                   SampleResult* results) {
  return {.logits = {const_cast<float*>(logits), DType::f32, p.num_logit_rows, p.vocab_size, p.vocab_size},
          .rows = rows,
          .num_rows = static_cast<int>(p.rows.size()),
          .allowed = p.allowed.empty() ? nullptr : allowed,
          .ids = ids,
          .results = results};
}

void check(const Problem& p, TestDevice& device) {
  Drawn expected{std::vector<int32_t>(p.rows.size(), -7), std::vector<SampleResult>(p.rows.size() + 3)};
  reference::sample(
      args_of(p, p.logits.data(), p.rows.data(), p.allowed.data(), expected.ids.data(), expected.results.data()));
  const DeviceArray<float> logits(p.logits);
  const DeviceArray<SampleRow> rows(p.rows);
  const DeviceArray<uint32_t> allowed(p.allowed);
  const DeviceArray<int32_t> ids(std::vector<int32_t>(p.rows.size(), -7));
  const DeviceArray<SampleResult> results(std::vector<SampleResult>(p.rows.size() + 3));
  const DeviceArray<cuda::GreedyPartial> partial(
      std::vector<cuda::GreedyPartial>(p.rows.size() * cuda::kMaxGreedyBlocks));
  const DeviceArray<unsigned> arrived(std::vector<unsigned>(p.rows.size(), 0));
  for (int repeat = 0; repeat < 2; ++repeat) {  // the counters must be back at zero
    cuda::sample_greedy(args_of(p, logits.data(), rows.data(), allowed.data(), ids.data(), results.data()),
                        {partial.data(), arrived.data()}, device.context(true));
    CAPTURE(p.vocab_size);
    CAPTURE(p.rows.size());
    CHECK(ids.download() == expected.ids);
    const std::vector<SampleResult> found = results.download();
    for (size_t r = 0; r < found.size(); ++r) {
      CAPTURE(r);
      CHECK(found[r].id == expected.results[r].id);
      CHECK(found[r].num_nan == expected.results[r].num_nan);
      CHECK(found[r].num_inf == expected.results[r].num_inf);
      CHECK(found[r].num_neg_inf == expected.results[r].num_neg_inf);
    }
  }
}

Problem random_problem(int64_t vocab_size, int num_draws, Random& random) {
  Problem p{vocab_size, num_draws + 2, random.outlier_heavy(num_draws + 2, vocab_size), {}, {}};
  for (int r = 0; r < num_draws; ++r)
    p.rows.push_back(
        {.logits_row = static_cast<int32_t>(random.integer(0, num_draws + 1)), .result = num_draws + 2 - r});
  return p;
}

}  // namespace

TEST_CASE("greedy: the largest allowed logit, the lowest index of equals, for every size and number of rows") {
  Random random(1);
  TestDevice device;
  for (int64_t vocab_size : {1, 31, 255, 1000, 32000, 32003, 151936, 262144}) {
    for (int num_draws : {1, 2, 7, 64}) {
      Problem p = random_problem(vocab_size, num_draws, random);
      check(p, device);
      // Many equal values, a few bits of difference, and half of the tokens banned.
      for (float& x : p.logits) x = std::round(x * 2) / 2 + (random.integer(0, 1) ? 0.0f : -0.0f);
      p.allowed.assign(static_cast<size_t>(vocab_size + 31) / 32, 0);
      for (uint32_t& word : p.allowed) word = static_cast<uint32_t>(random.integer(0, 0xffffffffll));
      check(p, device);
    }
  }
}

TEST_CASE("greedy: damaged rows are counted, and rows without an allowed token give none") {
  Random random(2);
  TestDevice device;
  Problem p = random_problem(50001, 6, random);
  for (int r = 0; r < 6; ++r) p.rows[static_cast<size_t>(r)].logits_row = r;
  const auto at = [&](int row, int64_t column) -> float& {
    return p.logits[static_cast<size_t>(row * p.vocab_size + column)];
  };
  at(0, 17) = std::nanf("");
  at(0, 50000) = -std::nanf("");
  at(1, 25000) = kInf;
  for (int64_t i = 0; i < p.vocab_size; ++i) at(2, i) = -kInf;
  for (int64_t i = 0; i < p.vocab_size; ++i) at(3, i) = i == 40000 ? -3e38f : -kInf;
  at(4, 3) = -kInf;
  for (int64_t i = 0; i < p.vocab_size; ++i) at(5, i) = 0;
  check(p, device);
  p.allowed.assign(static_cast<size_t>(p.vocab_size + 31) / 32, 0);
  p.allowed[3] = 0x80;
  check(p, device);
  p.allowed[3] = 0;
  check(p, device);
}
