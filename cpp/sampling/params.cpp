#include "sampling/params.h"

#include <cmath>

#include "core/error.h"

namespace imp {
namespace {

constexpr int32_t kMaxLogprobs = 20;
constexpr int32_t kMaxSamples = 256;  // of one prompt; each has its sampler and its text from the start
constexpr float kMaxBias = 10000;

template <class Value>
void require(bool is_allowed, std::string_view field, const Value& value, std::string_view expected) {
  if (!is_allowed)
    fail(ErrorCode::invalid_argument, "sampling parameter ", field, " = ", value, ": expected ", expected);
}

// Comparisons are written so that NaN fails them.
void require_positive(std::string_view field, float value) {
  require(value > 0 && std::isfinite(value), field, value, "a finite number above 0");
}
void require_not_negative(std::string_view field, float value) {
  require(value >= 0 && std::isfinite(value), field, value, "a finite number >= 0");
}
void require_share(std::string_view field, float value) {
  require(value > 0 && value <= 1, field, value, "a number above 0 and at most 1");
}

void require_token(std::string_view field, int32_t id, int32_t vocab_size) {
  if (id >= 0 && id < vocab_size) return;
  fail(ErrorCode::invalid_argument, "sampling parameter ", field, " has token id ", id, ": expected 0 to ",
       vocab_size - 1);
}

void validate_tokens(const SamplingParams& params, int32_t vocab_size) {
  for (const auto& [id, bias] : params.logit_bias) {
    require_token("logit_bias", id, vocab_size);
    require(std::abs(bias) <= kMaxBias, cat("logit_bias[", id, "]"), bias,
            "a number from -10000 to 10000 (banned_token_ids bans a token)");
  }
  for (int32_t id : params.allowed_token_ids) require_token("allowed_token_ids", id, vocab_size);
  for (int32_t id : params.banned_token_ids) require_token("banned_token_ids", id, vocab_size);
  for (int32_t id : params.stop_token_ids) require_token("stop_token_ids", id, vocab_size);
}

void validate_text(const SamplingParams& params) {
  for (const std::string& text : params.stop) {
    require(!text.empty(), "stop", "\"\"", "strings of at least one character");
  }
  for (const std::string& text : params.dry_sequence_breakers) {
    require(!text.empty(), "dry_sequence_breakers", "\"\"", "strings of at least one character");
  }
}

void validate_penalties(const SamplingParams& params) {
  const auto require_penalty = [](std::string_view field, float value) {
    require(value >= -2 && value <= 2, field, value, "a number from -2 to 2");
  };
  require_positive("repetition_penalty", params.repetition_penalty);
  require_penalty("frequency_penalty", params.frequency_penalty);
  require_penalty("presence_penalty", params.presence_penalty);
  require(params.penalty_last_n >= -1, "penalty_last_n", params.penalty_last_n,
          "an integer >= -1 (-1: the whole sequence)");
  require_not_negative("dry_multiplier", params.dry_multiplier);
  require(params.dry_base >= 1 && std::isfinite(params.dry_base), "dry_base", params.dry_base, "a finite number >= 1");
  require(params.dry_allowed_length >= 1, "dry_allowed_length", params.dry_allowed_length, "an integer >= 1");
  require(params.dry_penalty_last_n >= -1, "dry_penalty_last_n", params.dry_penalty_last_n,
          "an integer >= -1 (-1: the whole sequence)");
}

}  // namespace

void SamplingParams::validate(int32_t vocab_size) const {
  require_not_negative("temperature", temperature);
  require(top_k >= 0, "top_k", top_k, "an integer >= 0 (0: all tokens)");
  require_share("top_p", top_p);
  require(min_p >= 0 && min_p < 1, "min_p", min_p, "a number from 0 to below 1");
  require_share("typical_p", typical_p);
  validate_penalties(*this);
  require(mirostat == 0 || mirostat == 2, "mirostat", mirostat, "0 (off) or 2");
  require_positive("mirostat_tau", mirostat_tau);
  require_positive("mirostat_eta", mirostat_eta);
  validate_tokens(*this, vocab_size);
  validate_text(*this);
  require(max_tokens == -1 || max_tokens >= 1, "max_tokens", max_tokens,
          "an integer >= 1, or -1 (until the model stops or the context is full)");
  require(min_tokens >= 0, "min_tokens", min_tokens, "an integer >= 0");
  require(max_tokens == -1 || min_tokens <= max_tokens, "min_tokens", min_tokens,
          cat("at most max_tokens, ", max_tokens));
  require(think_budget >= -1, "think_budget", think_budget, "an integer >= 0, or -1 (as configured)");
  require(n >= 1 && n <= kMaxSamples, "n", n, cat("an integer from 1 to ", kMaxSamples));
  const std::string logprobs_range = cat("an integer from 0 to ", kMaxLogprobs, ", or -1 (none)");
  require(logprobs >= -1 && logprobs <= kMaxLogprobs, "logprobs", logprobs, logprobs_range);
  require(prompt_logprobs >= -1 && prompt_logprobs <= kMaxLogprobs, "prompt_logprobs", prompt_logprobs, logprobs_range);
}

}  // namespace imp
