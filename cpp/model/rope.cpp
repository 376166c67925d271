#include "model/rope.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numbers>

namespace imp {
namespace {

/// Llama 3: long wavelengths are stretched by `factor`, short ones kept, those between blended.
float llama3_frequency(const RopeSpec& spec, float frequency) {
  const float wavelength = 2 * std::numbers::pi_v<float> / frequency;
  const float longest_kept = spec.original_context / spec.high_freq_factor;
  const float shortest_stretched = spec.original_context / spec.low_freq_factor;
  if (wavelength < longest_kept) return frequency;
  if (wavelength > shortest_stretched) return frequency / spec.factor;
  const float kept =
      (spec.original_context / wavelength - spec.low_freq_factor) / (spec.high_freq_factor - spec.low_freq_factor);
  return (1 - kept) * frequency / spec.factor + kept * frequency;
}

/// The (fractional) index of the frequency that turns `rotations` times over the original context.
double yarn_index(const RopeSpec& spec, double rotations) {
  return spec.rotary_dim * std::log(spec.original_context / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(static_cast<double>(spec.theta)));
}

/// YaRN: frequencies up to index `low` are kept, those from `high` stretched, with a linear ramp between.
void stretch_yarn(const RopeSpec& spec, std::vector<float>& inv_freq) {
  double low = yarn_index(spec, spec.beta_fast);
  double high = yarn_index(spec, spec.beta_slow);
  if (spec.yarn_truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, spec.rotary_dim - 1.0);
  const double width = low == high ? 0.001 : high - low;  // a ramp of no width would divide by zero
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const float stretched = std::clamp(static_cast<float>((static_cast<double>(i) - low) / width), 0.0f, 1.0f);
    inv_freq[i] = inv_freq[i] / spec.factor * stretched + inv_freq[i] * (1 - stretched);
  }
}

}  // namespace

float yarn_magnitude(float factor) { return factor <= 1 ? 1.0f : 0.1f * std::log(factor) + 1.0f; }

RopeTable make_rope_table(const RopeSpec& spec) {
  assert(spec.rotary_dim > 0 && spec.rotary_dim % 2 == 0);
  RopeTable table;
  table.inv_freq.resize(spec.rotary_dim / 2);
  for (size_t i = 0; i < table.inv_freq.size(); ++i) {
    table.inv_freq[i] = static_cast<float>(std::pow(static_cast<double>(spec.theta), -2.0 * i / spec.rotary_dim));
  }
  switch (spec.scaling) {
    case RopeScaling::none: break;
    case RopeScaling::linear:
      for (float& frequency : table.inv_freq) frequency /= spec.factor;
      break;
    case RopeScaling::llama3:
      for (float& frequency : table.inv_freq) frequency = llama3_frequency(spec, frequency);
      break;
    case RopeScaling::yarn:
      stretch_yarn(spec, table.inv_freq);
      table.magnitude = spec.attention_factor > 0 ? spec.attention_factor : yarn_magnitude(spec.factor);
      break;
  }
  if (!spec.freq_divisors.empty()) {
    assert(spec.freq_divisors.size() == table.inv_freq.size());
    for (size_t i = 0; i < table.inv_freq.size(); ++i) table.inv_freq[i] /= spec.freq_divisors[i];
  }
  return table;
}

}  // namespace imp
