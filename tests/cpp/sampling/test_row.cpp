#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "sampling/row.h"
#include "support/random.h"

using namespace imp;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// Logits as models make them: a broad bulk and a few large ones.
std::vector<float> random_row(size_t size, uint32_t seed) {
  test::Random random(seed);
  std::vector<float> row = random.normals(static_cast<int64_t>(size), 2.5f);
  for (size_t i = 0; i < 1 + size / 100; ++i) row[random.bits() % size] += 8;
  return row;
}

std::string damage_of(const std::vector<float>& row) {
  try {
    check_row(row, 17);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::internal);
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("argmax takes the lowest of equals at every length and place") {
  for (size_t size : {1, 2, 15, 16, 17, 31, 33, 255, 257}) {
    std::vector<float> row(size, -5);
    for (size_t i = 0; i < size; ++i) {
      row[i] = 3;
      if (i + 1 < size) row[size - 1] = 3;
      CHECK(argmax(row) == static_cast<int32_t>(i));
      row[i] = row[size - 1] = -5;
    }
  }
  CHECK(argmax(std::vector<float>{-kInf, -1e38f, -kInf}) == 1);
  CHECK(argmax(std::vector<float>(40, -kInf)) == -1);
  CHECK(argmax(std::vector<float>{}) == -1);
}

TEST_CASE("a damaged row is counted, wherever the damage stands") {
  for (size_t i = 0; i < 37; ++i) {
    std::vector<float> row(37, 1.0f);
    row[i] = kNan;
    CHECK(damage_of(row).find("position 17 are damaged: of 37 values, 1 are NaN, 0 are +inf, 0 are -inf") !=
          std::string::npos);
    row[i] = kInf;
    CHECK(damage_of(row).find("0 are NaN, 1 are +inf") != std::string::npos);
    row[i] = -kInf;
    CHECK(damage_of(row) == "");
  }
  CHECK(damage_of(std::vector<float>(37, -kInf)).find("37 are -inf") != std::string::npos);
  CHECK(damage_of(std::vector<float>(37, kNan)).find("37 are NaN") != std::string::npos);
}

TEST_CASE("exp_of_negative is as good as float allows") {
  double worst = 0;
  for (float x = 0; x > -86.9f; x -= 0.0007f) {
    const double expected = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::abs(exp_of_negative(x) - expected) / expected);
  }
  CHECK(worst < 2.5e-7);  // 2 units in the last place are 2.4e-7
  CHECK(exp_of_negative(0) == 1.0f);
  CHECK(exp_of_negative(-87.5f) == 0.0f);
  CHECK(exp_of_negative(-kInf) == 0.0f);
}

TEST_CASE("weights sum to their total; log_sum_exp is stable") {
  const std::vector<float> row = random_row(1001, 3);
  std::vector<float> weights(row.size());
  const float max = summarize_row(row).max;
  const double total = softmax_weights(row, max, 0.7f, weights);
  double expected = 0;
  for (float x : row) expected += std::exp((static_cast<double>(x) - max) / 0.7);
  CHECK(total == doctest::Approx(expected).epsilon(1e-6));
  CHECK(std::accumulate(weights.begin(), weights.end(), 0.0) == doctest::Approx(total).epsilon(1e-12));

  CHECK(log_sum_exp(std::vector<float>{1000, 1000}) == doctest::Approx(1000 + std::log(2.0)));
  CHECK(log_sum_exp(std::vector<float>{-1000, -kInf, -1001}) == doctest::Approx(-1000 + std::log(1 + std::exp(-1.0))));
}

TEST_CASE("largest equals a full sort, ties included") {
  for (uint32_t seed = 0; seed < 4; ++seed) {
    std::vector<float> row = random_row(10007, seed);
    for (float& x : row) x = std::round(x * 4) / 4;  // many ties
    for (size_t i = 0; i < row.size(); i += 3) row[i] = -kInf;
    std::vector<int32_t> all;
    for (size_t i = 0; i < row.size(); ++i) {
      if (row[i] > -kInf) all.push_back(static_cast<int32_t>(i));
    }
    std::stable_sort(all.begin(), all.end(), [&](int32_t a, int32_t b) { return row[a] > row[b]; });
    for (int count : {0, 1, 2, 20, 1000, 4096, 4097, 5000, 20000}) {
      CAPTURE(count);
      const std::vector<int32_t> expected(all.begin(), all.begin() + std::min<ptrdiff_t>(count, std::ssize(all)));
      CHECK(largest(row, count) == expected);
    }
  }
}
