#include "sampling/processors.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "sampling/row.h"

namespace imp {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();
constexpr float kMaxLogit = 1e30f;  // what a tiny repetition penalty makes of a logit stays finite

double sum_of_weights(std::span<const WeightedToken> tokens) {
  double sum = 0;
  for (const WeightedToken& token : tokens) sum += token.weight;
  return sum;
}

/// A token and its place: the lowest key first, the lower id among equals.
struct RankedToken {
  double key;
  WeightedToken token;
  bool operator<(const RankedToken& other) const {
    return key < other.key || (key == other.key && token.id < other.token.id);
  }
};

/// The first of `ranked` whose weights reach `needed`. Sorts a growing prefix only: mostly a few hundred of 262144
/// tokens carry nearly all the mass.
TokenSet first_with_mass(std::vector<RankedToken>& ranked, double needed) {
  TokenSet kept;
  size_t sorted = 0, chunk = 64;
  while (sorted < ranked.size()) {
    const size_t next = std::min(sorted + chunk, ranked.size());
    const auto begin = ranked.begin() + static_cast<ptrdiff_t>(sorted),
               end = ranked.begin() + static_cast<ptrdiff_t>(next);
    if (next < ranked.size()) std::nth_element(begin, end, ranked.end());
    std::sort(begin, end);
    for (; sorted < next; ++sorted) {
      kept.tokens.push_back(ranked[sorted].token);
      kept.total += ranked[sorted].token.weight;
      if (kept.total >= needed) return kept;
    }
    chunk *= 4;
  }
  return kept;
}

/// Tokens of at least `least` (and above 0) in the order of ids.
void collect(TokenSet& set, std::span<const float> weights, double least) {
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] > 0 && weights[i] >= least) set.tokens.push_back({static_cast<int32_t>(i), weights[i]});
  }
}

}  // namespace

void TokenCounts::append(std::span<const int32_t> history) {
  if (window_ == 0) return;
  ++counts_[history.back()];
  if (window_ < 0 || history.size() <= static_cast<size_t>(window_)) return;
  const auto leaving = counts_.find(history[history.size() - 1 - static_cast<size_t>(window_)]);
  if (--leaving->second == 0) counts_.erase(leaving);
}

void ban_tokens(std::span<float> logits, std::span<const int32_t> ids) {
  for (int32_t id : ids) {
    if (id >= 0 && static_cast<size_t>(id) < logits.size()) logits[id] = kBanned;
  }
}

void ban_all_but(std::span<float> logits, std::span<const int32_t> ids) {
  std::vector<WeightedToken> kept;
  for (int32_t id : ids) kept.push_back({id, logits[id]});
  std::fill(logits.begin(), logits.end(), kBanned);
  for (const WeightedToken& token : kept) logits[token.id] = token.weight;
}

void apply_mask(std::span<float> logits, std::span<const uint32_t> mask) {
  for (size_t i = 0; i < logits.size(); ++i) {
    if ((mask[i / 32] >> (i % 32) & 1) == 0) logits[i] = kBanned;
  }
}

void add_bias(std::span<float> logits, const std::map<int32_t, float>& bias) {
  for (const auto& [id, amount] : bias) logits[id] += amount;
}

void apply_penalties(std::span<float> logits, const TokenCounts& counts, const Penalties& penalties) {
  for (const auto& [id, count] : counts.counts()) logits[id] = penalized(logits[id], count, penalties);
}

float penalized(float logit, int32_t count, const Penalties& penalties) {
  logit = logit > 0 ? logit / penalties.repetition : logit * penalties.repetition;
  return std::min(logit - penalties.frequency * static_cast<float>(count) - penalties.presence, kMaxLogit);
}

TokenSet filtered_tokens(std::span<const float> logits, float temperature, const Filters& filters,
                         std::span<float> weights) {
  TokenSet set;
  if (filters.top_k > 0 && static_cast<size_t>(filters.top_k) < logits.size()) {
    const std::vector<int32_t> best = largest(logits, filters.top_k);
    for (int32_t id : best) {
      const float weight = exp_of_negative((logits[id] - logits[best[0]]) / temperature);
      if (weight > 0) set.tokens.push_back({id, weight});
    }
    set.total = sum_of_weights(set.tokens);
  } else {
    set.total = softmax_weights(logits, summarize_row(logits).max, temperature, weights);
    double least = 0;
    if (filters.typical_p == 1 && filters.top_p < 1) {
      // Tokens below a share (1 - p) / n weigh less than 1 - p together: top-p is reached without them. The factor
      // leaves room for rounding.
      least = 0.999 * (1.0 - filters.top_p) * set.total / static_cast<double>(logits.size());
    } else if (filters.typical_p == 1) {
      least = filters.min_p;  // the likeliest token weighs 1
    }
    collect(set, weights, least);
  }
  if (filters.typical_p < 1) keep_typical(set, filters.typical_p);
  if (filters.top_p < 1) keep_top_p(set, filters.top_p);
  if (filters.min_p > 0) keep_min_p(set, filters.min_p);
  return set;
}

void keep_typical(TokenSet& set, float share) {
  // With p = w / total: -log p = log total - log w, and the entropy is the mean of that.
  std::vector<RankedToken> ranked;
  ranked.reserve(set.tokens.size());
  double mean_log = 0;
  for (const WeightedToken& token : set.tokens) {
    const double log_weight = std::log(static_cast<double>(token.weight));
    mean_log += token.weight * log_weight / set.total;
    ranked.push_back({log_weight, token});
  }
  for (RankedToken& entry : ranked) entry.key = std::abs(mean_log - entry.key);  // |surprise - entropy|
  set = first_with_mass(ranked, share * set.total);
}

void keep_top_p(TokenSet& set, float share) {
  std::vector<RankedToken> ranked;
  ranked.reserve(set.tokens.size());
  for (const WeightedToken& token : set.tokens) ranked.push_back({-token.weight, token});
  set = first_with_mass(ranked, share * set.total);
}

void keep_min_p(TokenSet& set, float share) {
  float best = 0;
  for (const WeightedToken& token : set.tokens) best = std::max(best, token.weight);
  std::erase_if(set.tokens, [&](const WeightedToken& token) { return token.weight < share * best; });
  set.total = sum_of_weights(set.tokens);
}

int32_t draw(const TokenSet& set, double uniform) {
  const double target = uniform * set.total;
  double reached = 0;
  for (const WeightedToken& token : set.tokens) {
    reached += token.weight;
    if (reached > target) return token.id;
  }
  return set.tokens.back().id;  // rounding: the last step fell short of the total
}

int32_t draw(std::span<const float> weights, double total, double uniform) {
  const double target = uniform * total;
  double reached = 0;
  int32_t last = -1;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] == 0) continue;
    reached += weights[i];
    last = static_cast<int32_t>(i);
    if (reached > target) return last;
  }
  return last;
}

}  // namespace imp
