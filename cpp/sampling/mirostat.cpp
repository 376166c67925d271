#include "sampling/mirostat.h"

#include <algorithm>
#include <cmath>

#include "sampling/processors.h"

namespace imp {

int32_t Mirostat::draw(std::span<const float> weights, double total, double uniform) {
  // The likeliest token always stays: there must be one to draw.
  const double best = *std::max_element(weights.begin(), weights.end());
  const double least = std::min(best, std::exp2(-mu_) * total);
  TokenSet set;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] == 0 || weights[i] < least) continue;
    set.tokens.push_back({static_cast<int32_t>(i), weights[i]});
    set.total += weights[i];
  }
  const int32_t id = imp::draw(set, uniform);
  const double surprise = -std::log2(weights[id] / total);
  mu_ -= eta_ * (surprise - tau_);
  return id;
}

}  // namespace imp
