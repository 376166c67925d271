#include "engine/think_budget.h"

#include <ranges>

namespace imp {

std::optional<ThinkMarkers> find_think_markers(const Tokenizer& tokenizer) {
  const auto open = tokenizer.find("<think>");
  const auto close = tokenizer.find("</think>");
  if (!open || !close) return std::nullopt;
  return ThinkMarkers{*open, *close};
}

ThinkBudget::ThinkBudget(ThinkMarkers markers, int64_t budget, std::span<const TokenId> prompt)
    : markers_(markers), budget_(budget) {
  for (TokenId id : std::views::reverse(prompt)) {
    if (id == markers_.close) break;
    if (id == markers_.open) {
      thinking_ = true;
      break;
    }
  }
}

void ThinkBudget::accept(TokenId id) {
  if (id == markers_.open) {
    thinking_ = true;
    spent_ = 0;
  } else if (id == markers_.close) {
    thinking_ = false;
  } else if (thinking_) {
    ++spent_;
  }
}

std::optional<TokenId> ThinkBudget::forced() const {
  if (budget_ > 0 && thinking_ && spent_ >= budget_) return markers_.close;
  return std::nullopt;
}

}  // namespace imp
