#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <unordered_map>
#include <vector>

namespace imp {

// The steps from logits to a token, in the order in which Sampler takes them:
//   1. restrict: padding rows, banned and not allowed tokens, stop tokens before min_tokens, the grammar's mask
//   2. logit bias                                   (a bias cannot bring a banned token back)
//   3. repetition, frequency and presence penalties
//   4. DRY                                          (dry.h)
//   5. temperature; 0 takes the best token here
//   6. top-k, typical-p, top-p, min-p, each on what the one before left; or mirostat (mirostat.h) instead of the four
//   7. the draw
// Temperature stands before the filters, so that top_p and min_p are shares of the distribution that is drawn from.

/// Window of the three penalties: how often each token occurs in the last `window` tokens (-1: in all).
class TokenCounts {
 public:
  explicit TokenCounts(int32_t window) : window_(window) {}
  /// `history` with its new last token.
  void append(std::span<const int32_t> history);
  const std::unordered_map<int32_t, int32_t>& counts() const { return counts_; }

 private:
  int32_t window_;
  std::unordered_map<int32_t, int32_t> counts_;
};

void ban_tokens(std::span<float> logits, std::span<const int32_t> ids);
void ban_all_but(std::span<float> logits, std::span<const int32_t> ids);
/// Bans the tokens whose bit is clear; bit i of word w is token 32 w + i.
void apply_mask(std::span<float> logits, std::span<const uint32_t> mask);
void add_bias(std::span<float> logits, const std::map<int32_t, float>& bias);

struct Penalties {
  float repetition = 1;  // positive logits are divided by it, negative ones multiplied
  float frequency = 0;   // then taken off, times the count
  float presence = 0;    // and once
};
/// A logit of a token that occurs `count` times in the window.
float penalized(float logit, int32_t count, const Penalties& penalties);
void apply_penalties(std::span<float> logits, const TokenCounts& counts, const Penalties& penalties);

/// A token that may be drawn; its probability is weight / total of its set.
struct WeightedToken {
  int32_t id;
  float weight;
};
struct TokenSet {
  std::vector<WeightedToken> tokens;
  double total =
      0;  // of all weights, those of tokens that cannot make the cut (and were left out of `tokens`) included
};

struct Filters {
  int32_t top_k = 0;
  float typical_p = 1;
  float top_p = 1;
  float min_p = 0;
  bool any() const { return top_k > 0 || typical_p < 1 || top_p < 1 || min_p > 0; }
};

/// The tokens of a row that the filters leave, with weights at `temperature`. `weights` is workspace, [logits.size()].
TokenSet filtered_tokens(std::span<const float> logits, float temperature, const Filters& filters,
                         std::span<float> weights);

/// The smallest set of tokens, by how near their surprise is to the entropy, whose mass reaches `share`; at least one.
void keep_typical(TokenSet& set, float share);
/// The smallest set of the likeliest tokens whose mass reaches `share`; at least one.
void keep_top_p(TokenSet& set, float share);
/// Tokens with at least `share` of the likeliest one's probability.
void keep_min_p(TokenSet& set, float share);

/// The token at `uniform` in [0, 1) of the set's cumulated weights.
int32_t draw(const TokenSet& set, double uniform);
/// The same over a whole row of weights, in the order of ids.
int32_t draw(std::span<const float> weights, double total, double uniform);

}  // namespace imp
