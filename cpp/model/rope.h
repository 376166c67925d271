#pragma once
#include <vector>

#include "model/spec.h"

namespace imp {

/// What a RopeSpec comes to: angle(position, i) = position * inv_freq[i], with cos and sin multiplied by `magnitude`.
struct RopeTable {
  std::vector<float> inv_freq;  // [rotary_dim / 2]
  float magnitude = 1;
};

/// Base frequencies theta^(-2i / rotary_dim), stretched as `spec.scaling` says, then divided by freq_divisors.
/// Formulas: docs of each scaling in rope.cpp. Oracle: Hugging Face's frequencies (tests/cpp/model/test_rope.cpp).
RopeTable make_rope_table(const RopeSpec& spec);

/// YaRN's correction of the attention temperature for contexts `factor` times the trained one.
float yarn_magnitude(float factor);

}  // namespace imp
