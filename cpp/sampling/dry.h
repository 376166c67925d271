#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace imp {

struct DryParams {
  float multiplier = 0;
  float base = 1.75f;
  int32_t allowed_length = 2;
  int32_t penalty_last_n = -1;
};

/// DRY ("don't repeat yourself"): against repeats of whole passages. If drawing token t would make the last n tokens
/// plus t a repeat of something in the window, n being the longest such length and at least allowed_length, then
///   logits[t] -= multiplier * base^(n - allowed_length).
/// A repeat never reaches back over a breaker (a sequence of ids such as a line break), and a breaker of one token is
/// itself never penalized. Linear in the window.
void apply_dry(std::span<float> logits, std::span<const int32_t> history, const DryParams& params,
               std::span<const std::vector<int32_t>> breakers);

}  // namespace imp
