#include "sampling/row.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"

namespace imp {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr size_t kLanes = 16;  // independent running values, so that the loops vectorize without reordering sums

}  // namespace

RowSummary summarize_row(std::span<const float> row) {
  std::array<float, kLanes> best;
  std::array<int32_t, kLanes> bad{};
  best.fill(-kInf);
  const auto look = [&](size_t i, size_t lane) {
    best[lane] = row[i] > best[lane] ? row[i] : best[lane];
    bad[lane] |= !(row[i] <= std::numeric_limits<float>::max());
  };
  size_t i = 0;
  for (; i + kLanes <= row.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) look(i + lane, lane);
  }
  for (; i < row.size(); ++i) look(i, 0);
  return {*std::max_element(best.begin(), best.end()),
          std::any_of(bad.begin(), bad.end(), [](int32_t b) { return b != 0; })};
}

void check_row(std::span<const float> row, int64_t position) {
  const RowSummary summary = summarize_row(row);
  if (summary.has_nan_or_inf || summary.max == -kInf)
    check_damage(count_damage(row), static_cast<int64_t>(row.size()), position);
}

RowDamage count_damage(std::span<const float> row) {
  const auto count = [&](auto predicate) { return std::count_if(row.begin(), row.end(), predicate); };
  return {count([](float x) { return std::isnan(x); }), count([](float x) { return x == kInf; }),
          count([](float x) { return x == -kInf; })};
}

void check_damage(const RowDamage& damage, int64_t size, int64_t position) {
  if (damage.nan == 0 && damage.inf == 0 && damage.neg_inf < size) return;
  fail(ErrorCode::internal, "the logits at position ", position, " are damaged: of ", size, " values, ", damage.nan,
       " are NaN, ", damage.inf, " are +inf, ", damage.neg_inf,
       " are -inf; the model file may be damaged, `imp inspect` and diagnostics.debug_forward help to find where");
}

int32_t argmax(std::span<const float> row) {
  const float max = summarize_row(row).max;
  if (max == -kInf) return -1;
  return static_cast<int32_t>(std::find(row.begin(), row.end(), max) - row.begin());
}

float exp_of_negative(float x) {
  // 2^n * e^r with n = round(x / ln 2): adding 1.5 * 2^23 rounds to an integer that stands in the low mantissa bits.
  constexpr float kShift = 12582912.0f;
  constexpr float kLog2e = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  const int32_t keep = -static_cast<int32_t>(x >= -87.0f);  // all bits or none: a branch would not vectorize
  const float clamped = std::bit_cast<float>(std::bit_cast<int32_t>(x) & keep);
  const float shifted = clamped * kLog2e + kShift;
  const float n = shifted - kShift;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;  // |r| <= ln(2) / 2
  float sum = 1.0f / 5040;                                 // Taylor's series to r^7; the next term is below 6e-9
  sum = sum * r + 1.0f / 720;
  sum = sum * r + 1.0f / 120;
  sum = sum * r + 1.0f / 24;
  sum = sum * r + 1.0f / 6;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  const int32_t exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kShift);
  const float power = std::bit_cast<float>((exponent + 127) << 23);
  return std::bit_cast<float>(std::bit_cast<int32_t>(sum * power) & keep);
}

double softmax_weights(std::span<const float> row, float max, float temperature, std::span<float> weights) {
  for (size_t i = 0; i < row.size(); ++i) weights[i] = exp_of_negative((row[i] - max) / temperature);
  std::array<double, kLanes> sums{};
  size_t i = 0;
  for (; i + kLanes <= row.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += weights[i + lane];
  }
  for (; i < row.size(); ++i) sums[0] += weights[i];
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

double log_sum_exp(std::span<const float> row) {
  const double max = summarize_row(row).max;
  double sum = 0;
  for (float x : row) sum += std::exp(x - max);
  return max + std::log(sum);
}

std::vector<int32_t> largest(std::span<const float> row, int count) {
  const auto comes_before = [&](int32_t a, int32_t b) { return row[a] > row[b] || (row[a] == row[b] && a < b); };
  std::vector<int32_t> best;
  if (count <= 0) return best;
  const auto limit = static_cast<size_t>(count);
  if (limit > 4096) {  // a heap of that size loses to selection
    for (size_t i = 0; i < row.size(); ++i) {
      if (row[i] > -kInf) best.push_back(static_cast<int32_t>(i));
    }
    if (best.size() > limit) {
      std::nth_element(best.begin(), best.begin() + count, best.end(), comes_before);
      best.resize(limit);
    }
    std::sort(best.begin(), best.end(), comes_before);
    return best;
  }
  // A heap with the worst of the best on top; nearly all values fail the first comparison.
  best.reserve(limit);
  float threshold = -kInf;
  for (size_t i = 0; i < row.size(); ++i) {
    if (!(row[i] > threshold)) continue;
    if (best.size() == limit) {
      std::pop_heap(best.begin(), best.end(), comes_before);
      best.pop_back();
    }
    best.push_back(static_cast<int32_t>(i));
    std::push_heap(best.begin(), best.end(), comes_before);
    if (best.size() == limit) threshold = row[best.front()];
  }
  std::sort_heap(best.begin(), best.end(), comes_before);
  return best;
}

}  // namespace imp
