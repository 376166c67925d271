#include "engine/logprobs.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace imp {

double log_sum_exp(std::span<const float> logits) {
  const double highest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit) - highest);
  return highest + std::log(sum);
}

std::vector<TokenLogprob> row_logprobs(std::span<const float> logits, TokenId chosen, int best) {
  const double total = log_sum_exp(logits);
  const auto entry = [&](TokenId id, int32_t rank) {
    return TokenLogprob{id, static_cast<float>(logits[static_cast<size_t>(id)] - total), rank};
  };
  const float own = logits[static_cast<size_t>(chosen)];
  const auto above = std::count_if(logits.begin(), logits.end(), [&](float logit) { return logit > own; });
  std::vector<TokenLogprob> row = {entry(chosen, static_cast<int32_t>(above) + 1)};

  std::vector<TokenId> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto count = std::min<size_t>(static_cast<size_t>(std::max(best, 0)), ids.size());
  std::partial_sort(ids.begin(), ids.begin() + static_cast<long>(count), ids.end(), [&](TokenId a, TokenId b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  for (size_t i = 0; i < count; ++i) row.push_back(entry(ids[i], static_cast<int32_t>(i) + 1));
  return row;
}

}  // namespace imp
