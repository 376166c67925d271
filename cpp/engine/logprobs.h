#pragma once
#include <span>
#include <vector>

#include "engine/engine.h"

namespace imp {

/// Log probabilities of one row of raw logits: `chosen` first (with its rank), then the `best` most likely, ties by
/// the lower id.
std::vector<TokenLogprob> row_logprobs(std::span<const float> logits, TokenId chosen, int best);

}  // namespace imp
