#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace imp {

/// How the next token is drawn. Defaults are neutral: plain sampling from the model's distribution.
/// validate() names the field, the value and the allowed range of anything out of order.
struct SamplingParams {
  float temperature = 1.0f;         // 0: greedy
  int32_t top_k = 0;                // 0: all
  float top_p = 1.0f;               // (0, 1]
  float min_p = 0.0f;               // [0, 1): share of the best token's probability
  float typical_p = 1.0f;           // (0, 1]
  float repetition_penalty = 1.0f;  // > 0; divides positive logits and multiplies negative ones
  float frequency_penalty = 0.0f;   // [-2, 2], times the count in the window
  float presence_penalty = 0.0f;    // [-2, 2]
  int32_t penalty_last_n = 64;      // window of the three penalties, in tokens; 0: off, -1: the whole sequence

  float dry_multiplier = 0.0f;  // 0: off
  float dry_base = 1.75f;
  int32_t dry_allowed_length = 2;
  int32_t dry_penalty_last_n = -1;
  std::vector<std::string> dry_sequence_breakers = {"\n", ":", "\"", "*"};

  int32_t mirostat = 0;  // 0: off, 2: mirostat v2 (replaces top-k, top-p, min-p, typical-p)
  float mirostat_tau = 5.0f;
  float mirostat_eta = 0.1f;

  std::map<int32_t, float> logit_bias;
  std::vector<int32_t> allowed_token_ids;  // empty: all
  std::vector<int32_t> banned_token_ids;

  std::optional<uint64_t> seed;  // none: drawn once a request

  int32_t max_tokens = -1;  // -1: until the model stops or the context is full
  int32_t min_tokens = 0;   // stop ids are banned until then
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool include_stop_str_in_output = false;
  bool skip_special_tokens = true;

  int32_t think_budget = -1;  // tokens between the think markers; -1: generation.think_budget says, 0: no limit

  int32_t n = 1;          // sequences for one prompt
  int32_t logprobs = -1;  // -1: none; else the chosen token's and that many best ones', at most 20
  int32_t prompt_logprobs = -1;

  void validate(int32_t vocab_size) const;
};

}  // namespace imp
