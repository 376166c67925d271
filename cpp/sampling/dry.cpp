#include "sampling/dry.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>

namespace imp {
namespace {

constexpr double kMaxPenalty = 1e30;  // keeps logits finite however long the repeat

/// Tokens at the end of `window` that stand after the last breaker in it.
size_t tokens_after_breaker(std::span<const int32_t> window, std::span<const std::vector<int32_t>> breakers) {
  size_t after = window.size();
  for (const std::vector<int32_t>& breaker : breakers) {
    if (breaker.empty()) continue;
    const auto last = std::find_end(window.begin(), window.end(), breaker.begin(), breaker.end());
    if (last == window.end()) continue;
    const auto end = last + static_cast<ptrdiff_t>(breaker.size());
    after = std::min(after, static_cast<size_t>(window.end() - end));
  }
  return after;
}

/// matches[i]: how many tokens before position i equal the last tokens of the window, read backwards; matches[0] = 0
/// and the window itself (i = size) are not asked for. This is the Z function of the reversed window.
std::vector<int32_t> backward_matches(std::span<const int32_t> window) {
  const auto size = static_cast<int32_t>(window.size());
  const auto reversed = [&](int32_t i) { return window[size - 1 - i]; };
  std::vector<int32_t> z(window.size(), 0), matches(window.size(), 0);
  for (int32_t i = 1, left = 0, right = 0; i < size; ++i) {
    if (i < right) z[i] = std::min(right - i, z[i - left]);
    while (i + z[i] < size && reversed(z[i]) == reversed(i + z[i])) ++z[i];
    if (i + z[i] > right) {
      left = i;
      right = i + z[i];
    }
    matches[size - i] = z[i];  // reversed index i is the token before position size - i
  }
  return matches;
}

}  // namespace

void apply_dry(std::span<float> logits, std::span<const int32_t> history, const DryParams& params,
               std::span<const std::vector<int32_t>> breakers) {
  if (params.multiplier == 0) return;
  const bool bounded = params.penalty_last_n >= 0 && static_cast<size_t>(params.penalty_last_n) < history.size();
  const auto window = bounded ? history.last(params.penalty_last_n) : history;
  const auto limit = static_cast<int32_t>(tokens_after_breaker(window, breakers));
  if (limit < params.allowed_length) return;
  const std::vector<int32_t> matches = backward_matches(window);
  std::unordered_map<int32_t, int32_t> longest;  // next token -> length of the repeat
  for (size_t i = 1; i < window.size(); ++i) {
    const int32_t length = std::min(matches[i], limit);
    if (length >= params.allowed_length) longest[window[i]] = std::max(longest[window[i]], length);
  }
  for (const std::vector<int32_t>& breaker : breakers) {
    if (breaker.size() == 1) longest.erase(breaker[0]);
  }
  for (const auto& [id, length] : longest) {
    const double penalty =
        params.multiplier * std::pow(static_cast<double>(params.base), length - params.allowed_length);
    logits[id] -= static_cast<float>(std::min(penalty, kMaxPenalty));
  }
}

}  // namespace imp
