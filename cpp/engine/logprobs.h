#pragma once
#include <span>
#include <vector>

#include "engine/engine.h"

namespace imp {

/// log of the sum of exp(logits), in double; the maximum is taken out first.
double log_sum_exp(std::span<const float> logits);

/// Log probabilities of one row of raw logits: `chosen` first (with its rank), then the `best` most likely, ties by
/// the lower id.
std::vector<TokenLogprob> row_logprobs(std::span<const float> logits, TokenId chosen, int best);

}  // namespace imp
