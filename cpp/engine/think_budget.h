#pragma once
#include <cstdint>
#include <optional>
#include <span>

#include "text/tokenizer.h"

namespace imp {

/// The token ids of <think> and </think>.
struct ThinkMarkers {
  TokenId open = -1;
  TokenId close = -1;
};

/// The vocabulary's think markers; nothing for models that do not think aloud.
std::optional<ThinkMarkers> find_think_markers(const Tokenizer& tokenizer);

/// Counts the tokens a sequence spends between the markers (generation.think_budget). Whether it is thinking when
/// generation starts is read off the prompt: templates may open the block themselves, or close it.
class ThinkBudget {
 public:
  ThinkBudget(ThinkMarkers markers, int64_t budget, std::span<const TokenId> prompt);

  void accept(TokenId id);
  /// The closing marker when the budget is spent, else nothing.
  std::optional<TokenId> forced() const;

 private:
  ThinkMarkers markers_;
  int64_t budget_;
  bool thinking_ = false;
  int64_t spent_ = 0;
};

}  // namespace imp
