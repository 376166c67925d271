#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "config/config.h"
#include "engine/engine.h"
#include "engine/think_budget.h"
#include "ops/args.h"
#include "sampling/sampler.h"
#include "text/stop.h"
#include "text/tokenizer.h"

namespace imp {

/// What generation needs to know of the vocabulary; one an engine.
struct VocabInfo {
  const Tokenizer* tokenizer = nullptr;  // null: ids only
  int32_t vocab_size = 0;                // columns of the logits
  std::vector<TokenId> banned;           // control tokens that no protocol needs; empty under generation.no_ban
  std::optional<ThinkMarkers> think;     // nothing where the vocabulary has no such markers
  int64_t think_budget = 0;              // generation.think_budget
};
/// The tokens that any request may draw, a bit each: all but padding columns and banned tokens.
std::vector<uint32_t> drawable_tokens(const VocabInfo& vocab);
VocabInfo make_vocab_info(const Tokenizer* tokenizer, int32_t vocab_size, const Settings& settings);

/// The sampler's view of a request's vocabulary.
SamplerVocab make_sampler_vocab(const VocabInfo& vocab, const SamplingParams& params);

/// Which per-token state the draws of a sequence depend on.
struct DrawNeeds {
  bool mask = false, counts = false, bias = false;
  int64_t window = 0;  // of the counts, in tokens; -1: all
};

/// One sequence while it is generated: draws its tokens, makes text of them, knows when it ends.
class Generation {
 public:
  Generation(const VocabInfo& vocab, std::shared_ptr<const SamplingParams> params, std::span<const TokenId> prompt,
             uint64_t seed, int32_t index, LogitsMask mask);

  /// Draws the next token from `logits` (overwritten). `room`: tokens that still fit into the context with this one.
  /// Request and index of the event are the caller's to fill in. What the sampler refuses ends the sequence as error.
  TokenEvent next(std::span<float> logits, int64_t room);
  /// The same with what the backend drew.
  TokenEvent next(const SampleResult& drawn, int64_t room);

  /// What keeps the backend from drawing this sequence's tokens, in one word; "" where nothing does.
  std::string_view host_reason() const { return host_reason_; }

  // For draws by the backend: numbers of `row`, for the token at `position`; and what DrawStates holds.
  void describe_draw(int64_t position, SampleRow& row) const;
  DrawNeeds draw_needs() const;
  bool stops_banned_at(int64_t position) const { return position - prompt_size_ < params_->min_tokens; }
  std::vector<uint32_t> allowed_tokens(const std::vector<uint32_t>& drawable, bool stops_banned) const;
  const std::unordered_map<int32_t, int32_t>& counts() const { return sampler_.counts(); }
  const std::map<int32_t, float>& bias() const { return params_->logit_bias; }

 private:
  TokenEvent next(const std::function<SampledToken()>& draw, int64_t room);
  TokenEvent accept(const SampledToken& sampled, int64_t room);
  bool ends_with(TokenId id, TokenEvent& event) const;
  bool add_text(std::string_view piece, TokenEvent& event);
  void flush_text(TokenEvent& event);

  const VocabInfo* vocab_;
  std::shared_ptr<const SamplingParams> params_;
  Sampler sampler_;
  std::optional<IncrementalDecoder> decoder_;
  StopMatcher stops_;
  std::optional<ThinkBudget> think_;
  int64_t num_generated_ = 0;
  std::string_view host_reason_;
  uint64_t seed_;
  int32_t index_;
  int64_t prompt_size_;
};

}  // namespace imp
