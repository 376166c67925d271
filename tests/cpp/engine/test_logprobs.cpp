#include <doctest/doctest.h>

#include <cmath>
#include <random>

#include "engine/logprobs.h"

using namespace imp;

TEST_CASE("a row of log probabilities: chosen first, then the best; probabilities sum to one") {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 4);
  std::vector<float> logits(1000);
  for (float& logit : logits) logit = normal(random);
  logits[17] = 300;  // exp() of it overflows a float
  const auto row = row_logprobs(logits, 5, static_cast<int>(logits.size()));
  REQUIRE(row.size() == logits.size() + 1);
  CHECK(row[0].id == 5);
  CHECK(row[1].id == 17);
  CHECK(row[1].rank == 1);
  CHECK(row[1].logprob == doctest::Approx(0));
  double sum = 0;
  for (size_t i = 1; i < row.size(); ++i) {
    sum += std::exp(static_cast<double>(row[i].logprob));
    CHECK(row[i].rank == static_cast<int32_t>(i));
    if (row[i].id == 5) CHECK(row[i].rank == row[0].rank);
  }
  CHECK(sum == doctest::Approx(1));
}

TEST_CASE("ties go to the lower id, and no best ones are given when none are wanted") {
  const std::vector<float> logits = {1, 2, 2, 0};
  const auto row = row_logprobs(logits, 2, 2);
  REQUIRE(row.size() == 3);
  CHECK(row[0].rank == 1);
  CHECK(row[1].id == 1);
  CHECK(row[2].id == 2);
  CHECK(row_logprobs(logits, 0, 0).size() == 1);
}
