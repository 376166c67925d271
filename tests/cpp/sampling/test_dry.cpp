#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "sampling/dry.h"

using namespace imp;

namespace {

using Ids = std::vector<int32_t>;

/// The definition: for every token, try every length.
std::vector<double> brute_force(size_t vocab_size, const Ids& history, const DryParams& params,
                                const std::vector<Ids>& breakers) {
  Ids window = history;
  if (params.penalty_last_n >= 0 && history.size() > static_cast<size_t>(params.penalty_last_n)) {
    window.assign(history.end() - params.penalty_last_n, history.end());
  }
  const size_t size = window.size();
  // The repeat may use the tokens after the last breaker only.
  size_t usable = 0;
  for (size_t length = 1; length <= size; ++length) {
    const Ids suffix(window.end() - static_cast<ptrdiff_t>(length), window.end());
    bool touches = false;
    for (const Ids& breaker : breakers) {
      for (size_t at = 0; at + breaker.size() <= size; ++at) {
        const bool is_here = std::equal(breaker.begin(), breaker.end(), window.begin() + static_cast<ptrdiff_t>(at));
        touches = touches || (is_here && at + breaker.size() > size - length);
      }
    }
    if (touches) break;
    usable = length;
  }
  std::vector<double> penalties(vocab_size, 0);
  for (size_t token = 0; token < vocab_size; ++token) {
    if (std::find(breakers.begin(), breakers.end(), Ids{static_cast<int32_t>(token)}) != breakers.end()) continue;
    for (size_t length = static_cast<size_t>(params.allowed_length); length <= usable; ++length) {
      for (size_t next = length; next < size; ++next) {
        if (window[next] != static_cast<int32_t>(token)) continue;
        if (!std::equal(window.end() - static_cast<ptrdiff_t>(length), window.end(),
                        window.begin() + static_cast<ptrdiff_t>(next - length)))
          continue;
        penalties[token] =
            params.multiplier * std::pow(params.base, static_cast<double>(length) - params.allowed_length);
      }
    }
  }
  return penalties;
}

}  // namespace

TEST_CASE("a repeat is penalized by its length") {
  // ... 1 2 3 4 ... 1 2 3 -> 4 repeats three tokens
  const Ids history = {9, 1, 2, 3, 4, 8, 1, 2, 3};
  std::vector<float> row(10, 0.0f);
  apply_dry(row, history, {.multiplier = 0.8f, .base = 2, .allowed_length = 2}, {});
  for (int id = 0; id < 10; ++id) CHECK(row[id] == doctest::Approx(id == 4 ? -0.8 * 2 : 0.0));
}

TEST_CASE("DRY equals its definition on random texts") {
  std::mt19937 random(3);
  const std::vector<std::vector<Ids>> breaker_sets = {{}, {{0}}, {{0}, {1, 2}}, {{3, 3}, {2, 1, 2}}};
  int penalized = 0;
  for (int round = 0; round < 400; ++round) {
    Ids history(random() % 60);
    for (int32_t& id : history) id = static_cast<int32_t>(random() % 4);
    const DryParams params{.multiplier = 0.5f,
                           .base = 1.5f,
                           .allowed_length = static_cast<int32_t>(1 + random() % 4),
                           .penalty_last_n = static_cast<int32_t>(random() % 3 == 0 ? random() % 40 : -1)};
    const std::vector<Ids>& breakers = breaker_sets[random() % breaker_sets.size()];
    std::vector<float> row(5, 10.0f);
    apply_dry(row, history, params, breakers);
    const std::vector<double> expected = brute_force(5, history, params, breakers);
    for (size_t id = 0; id < 5; ++id) {
      CHECK(row[id] == doctest::Approx(static_cast<float>(10.0 - expected[id])).epsilon(1e-6));
      penalized += expected[id] > 0;
    }
  }
  CHECK(penalized > 200);
}

TEST_CASE("DRY off, empty and extreme") {
  std::vector<float> row(4, 1.0f);
  const std::vector<float> before = row;
  apply_dry(row, Ids{1, 1, 1}, {.multiplier = 0}, {});
  apply_dry(row, Ids{}, {.multiplier = 1}, {});
  apply_dry(row, Ids{1}, {.multiplier = 1, .allowed_length = 1}, {});
  apply_dry(row, Ids{1, 1, 1, 1, 1}, {.multiplier = 1, .penalty_last_n = 0}, {});
  CHECK(row == before);
  apply_dry(row, Ids(20000, 1), {.multiplier = 1, .base = 4}, {});  // 4^19996 has no float
  CHECK(row[1] < -1e29f);
  CHECK(std::isfinite(row[1]));
}
