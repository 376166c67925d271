#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <set>

#include "sampling/processors.h"
#include "support/random.h"

using namespace imp;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<float> random_row(size_t size, uint32_t seed) {
  test::Random random(seed);
  std::vector<float> row = random.normals(static_cast<int64_t>(size), 2.5f);
  for (size_t i = 0; i < 1 + size / 100; ++i) row[random.bits() % size] += 8;
  return row;
}

struct Entry {
  int32_t id;
  double p;
};

void normalize(std::vector<Entry>& entries) {
  double sum = 0;
  for (const Entry& entry : entries) sum += entry.p;
  for (Entry& entry : entries) entry.p /= sum;
}

void cut_at_mass(std::vector<Entry>& entries, double share) {
  double mass = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    mass += entries[i].p;
    if (mass >= share) entries.resize(i + 1);
  }
  normalize(entries);
}

/// The four filters by their definitions: full softmax, full sorts, doubles.
std::vector<Entry> brute_force(const std::vector<float>& row, double temperature, const Filters& filters) {
  std::vector<Entry> entries;
  const double max = *std::max_element(row.begin(), row.end());
  for (size_t i = 0; i < row.size(); ++i) {
    const double p = std::exp((row[i] - max) / temperature);
    if (p > 0) entries.push_back({static_cast<int32_t>(i), p});
  }
  const auto by_p = [](const Entry& a, const Entry& b) { return a.p > b.p; };
  std::stable_sort(entries.begin(), entries.end(), by_p);
  if (filters.top_k > 0 && entries.size() > static_cast<size_t>(filters.top_k)) entries.resize(filters.top_k);
  normalize(entries);
  if (filters.typical_p < 1) {
    double entropy = 0;
    for (const Entry& entry : entries) entropy -= entry.p * std::log(entry.p);
    std::stable_sort(entries.begin(), entries.end(), [&](const Entry& a, const Entry& b) {
      return std::abs(-std::log(a.p) - entropy) < std::abs(-std::log(b.p) - entropy);
    });
    cut_at_mass(entries, filters.typical_p);
    std::stable_sort(entries.begin(), entries.end(), by_p);
  }
  if (filters.top_p < 1) cut_at_mass(entries, filters.top_p);
  std::erase_if(entries,
                [best = entries[0].p, &filters](const Entry& entry) { return entry.p < filters.min_p * best; });
  normalize(entries);
  return entries;
}

void check_against_brute_force(const std::vector<float>& row, float temperature, const Filters& filters) {
  CAPTURE(row.size());
  CAPTURE(temperature);
  CAPTURE(filters.top_k);
  CAPTURE(filters.typical_p);
  CAPTURE(filters.top_p);
  CAPTURE(filters.min_p);
  std::vector<float> weights(row.size());
  TokenSet set = filtered_tokens(row, temperature, filters, weights);
  std::vector<Entry> expected = brute_force(row, temperature, filters);
  // Float and double part where a token weighs less than 1e-37; such tails are not compared.
  std::erase_if(expected, [](const Entry& entry) { return entry.p < 1e-30; });
  std::erase_if(set.tokens, [&](const WeightedToken& token) { return token.weight / set.total < 1e-30; });
  REQUIRE(set.tokens.size() == expected.size());
  double sum = 0;
  for (const WeightedToken& token : set.tokens) sum += token.weight;
  CHECK(set.total == doctest::Approx(sum).epsilon(1e-6));
  std::sort(set.tokens.begin(), set.tokens.end(), [](auto& a, auto& b) { return a.id < b.id; });
  std::sort(expected.begin(), expected.end(), [](auto& a, auto& b) { return a.id < b.id; });
  bool same = true;
  for (size_t i = 0; i < expected.size(); ++i) {
    same = same && set.tokens[i].id == expected[i].id &&
           std::abs(set.tokens[i].weight / set.total - expected[i].p) < 1e-5 * expected[i].p;
  }
  CHECK(same);
}

std::set<int32_t> ids(const TokenSet& set) {
  std::set<int32_t> out;
  for (const WeightedToken& token : set.tokens) out.insert(token.id);
  return out;
}

/// Logits whose probabilities at temperature 1 are these.
std::vector<float> logits_of(std::initializer_list<double> probabilities) {
  std::vector<float> out;
  for (double p : probabilities) out.push_back(static_cast<float>(std::log(p)));
  return out;
}

std::set<int32_t> filtered_ids(const std::vector<float>& row, const Filters& filters) {
  std::vector<float> weights(row.size());
  return ids(filtered_tokens(row, 1, filters, weights));
}

}  // namespace

TEST_CASE("filters equal their definitions, alone and together") {
  const std::vector<Filters> cases = {
      {.top_k = 1},
      {.top_k = 40},
      {.top_k = 5000},
      {.top_k = 1000000},
      {.top_p = 0.1f},
      {.top_p = 0.9f},
      {.top_p = 0.999f},
      {.min_p = 0.05f},
      {.min_p = 0.9f},
      {.typical_p = 0.2f},
      {.typical_p = 0.95f},
      {.top_k = 50, .top_p = 0.8f, .min_p = 0.02f},
      {.typical_p = 0.7f, .top_p = 0.7f},
      {.top_k = 300, .typical_p = 0.9f, .top_p = 0.9f, .min_p = 0.1f},
      {.top_p = 0.95f, .min_p = 0.2f},
  };
  for (size_t size : {1, 2, 7, 255, 20000}) {
    const std::vector<float> row = random_row(size, static_cast<uint32_t>(size));
    for (const Filters& filters : cases) {
      for (float temperature : {0.3f, 1.0f, 2.5f}) check_against_brute_force(row, temperature, filters);
    }
  }
}

TEST_CASE("filters at a vocabulary of 262144 with banned tokens") {
  std::vector<float> row = random_row(262144, 1);
  for (size_t i = 0; i < row.size(); i += 5) row[i] = -kInf;
  check_against_brute_force(row, 1.0f, {.top_k = 64});
  check_against_brute_force(row, 1.0f, {.top_p = 0.95f});
  check_against_brute_force(row, 1.0f, {.min_p = 0.01f});
}

TEST_CASE("boundaries") {
  const std::vector<float> row = logits_of({0.1, 0.4, 0.2, 0.3});
  CHECK(filtered_ids(row, {.top_p = 0.39f}) == std::set{1});
  CHECK(filtered_ids(row, {.top_p = 0.41f}) == std::set{1, 3});
  CHECK(filtered_ids(row, {.top_p = 1e-6f}) == std::set{1});
  CHECK(filtered_ids(row, {.top_k = 3}) == std::set{1, 2, 3});
  CHECK(filtered_ids(row, {.top_k = 4, .min_p = 0.49f}) == std::set{1, 2, 3});
  CHECK(filtered_ids(row, {.min_p = 0.51f}) == std::set{1, 3});
  CHECK(filtered_ids(row, {.min_p = 0.99f}) == std::set{1});
  // Equal tokens: the lower id first.
  CHECK(filtered_ids({1, 1, 1, 1}, {.top_k = 2}) == std::set{0, 1});
  CHECK(filtered_ids({1, 1, 1, 1}, {.top_p = 0.5f}) == std::set{0, 1});
  // top-k leaves 0.4, 0.3, 0.2; top-p is a share of those 0.9: 0.7 / 0.9 = 0.78 reaches 0.75.
  CHECK(filtered_ids(row, {.top_k = 3, .top_p = 0.75f}) == std::set{1, 3});
  // Entropy of (0.5, 0.25, 0.25) is 1.04; 0.25 has surprise 1.39 and is nearer than 0.5 with 0.69 by a hair.
  CHECK(filtered_ids(logits_of({0.5, 0.25, 0.25}), {.typical_p = 0.2f}) == std::set{0});
  CHECK(filtered_ids(logits_of({0.9, 0.06, 0.04}), {.typical_p = 0.5f}) == std::set{0});
  CHECK(filtered_ids(logits_of({0.6, 0.1, 0.1, 0.1, 0.1}), {.typical_p = 0.3f}) == std::set{0});
  CHECK(filtered_ids(logits_of({0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1}), {.typical_p = 0.29f}) == std::set{1, 2, 3});
}

TEST_CASE("penalties count in their window") {
  for (int32_t window : {0, 1, 3, 64, -1}) {
    CAPTURE(window);
    std::mt19937 random(5);
    std::vector<int32_t> history;
    TokenCounts counts(window);
    for (int step = 0; step < 200; ++step) {
      history.push_back(static_cast<int32_t>(random() % 7));
      counts.append(history);
      std::unordered_map<int32_t, int32_t> expected;
      const size_t size = window < 0 ? history.size() : std::min<size_t>(window, history.size());
      for (size_t i = history.size() - size; i < history.size(); ++i) ++expected[history[i]];
      REQUIRE(counts.counts() == expected);
    }
  }
}

TEST_CASE("the three penalties follow their formulas") {
  TokenCounts counts(-1);
  std::vector<int32_t> history;
  for (int32_t id : {0, 1, 1, 3, 1}) {
    history.push_back(id);
    counts.append(history);
  }
  std::vector<float> row = {4, -2, 7, -kInf};
  apply_penalties(row, counts, {.repetition = 2, .frequency = 0.5f, .presence = 0.25f});
  CHECK(row[0] == 4 / 2.0f - 0.5f - 0.25f);
  CHECK(row[1] == -2 * 2.0f - 3 * 0.5f - 0.25f);
  CHECK(row[2] == 7);
  CHECK(row[3] == -kInf);
  std::vector<float> huge = {1e20f, 1, 1, 1};
  apply_penalties(huge, counts, {.repetition = 1e-30f});
  CHECK(std::isfinite(huge[0]));
}

TEST_CASE("bans, allowed lists, masks and bias") {
  std::vector<float> row(70, 1.0f);
  ban_tokens(row, std::vector<int32_t>{3, 69, 70, -1});
  CHECK(std::count(row.begin(), row.end(), -kInf) == 2);
  CHECK(row[69] == -kInf);
  row[5] = 9;
  ban_all_but(row, std::vector<int32_t>{5, 5, 3, 40});
  CHECK(row[5] == 9);
  CHECK(row[3] == -kInf);  // banned before
  CHECK(row[40] == 1);
  CHECK(std::count(row.begin(), row.end(), -kInf) == 68);

  std::vector<float> masked(70, 1.0f);
  std::vector<uint32_t> mask = {~0u, 0u, ~0u};
  mask[1] |= 1u << 31;
  apply_mask(masked, mask);
  for (int i = 0; i < 70; ++i) CHECK((masked[i] == 1.0f) == (i < 32 || i >= 63));

  add_bias(masked, {{0, 2.5f}, {40, 100.0f}});
  CHECK(masked[0] == 3.5f);
  CHECK(masked[40] == -kInf);
}

TEST_CASE("a draw lands where its uniform lies") {
  const TokenSet set{{{7, 0.5f}, {2, 0.25f}, {9, 0.25f}}, 1.0};
  CHECK(draw(set, 0) == 7);
  CHECK(draw(set, 0.4999) == 7);
  CHECK(draw(set, 0.5) == 2);
  CHECK(draw(set, 0.75) == 9);
  CHECK(draw(set, std::nextafter(1.0, 0.0)) == 9);
  const std::vector<float> weights = {0, 1, 0, 3, 0};
  CHECK(draw(weights, 4, 0) == 1);
  CHECK(draw(weights, 4, 0.25) == 3);
  CHECK(draw(weights, 4.001, std::nextafter(1.0, 0.0)) == 3);  // a total rounded up never reaches a token of weight 0
}
