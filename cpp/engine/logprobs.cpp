#include "engine/logprobs.h"

#include <algorithm>

#include "sampling/row.h"

namespace imp {

std::vector<TokenLogprob> row_logprobs(std::span<const float> logits, TokenId chosen, int best) {
  const double total = log_sum_exp(logits);
  const auto entry = [&](TokenId id, int32_t rank) {
    return TokenLogprob{id, static_cast<float>(logits[static_cast<size_t>(id)] - total), rank};
  };
  const float own = logits[static_cast<size_t>(chosen)];
  const auto above = std::count_if(logits.begin(), logits.end(), [&](float logit) { return logit > own; });
  std::vector<TokenLogprob> row = {entry(chosen, static_cast<int32_t>(above) + 1)};
  int32_t rank = 0;
  for (TokenId id : largest(logits, best)) row.push_back(entry(id, ++rank));
  return row;
}

}  // namespace imp
