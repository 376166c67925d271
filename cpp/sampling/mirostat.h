#pragma once
#include <cstdint>
#include <span>

namespace imp {

/// Mirostat 2.0 (Basu et al. 2021): holds the surprise of the drawn tokens, -log2 p, near `tau` by leaving out tokens
/// that surprise more than `mu`, and moving mu after each draw. p is the token's share of the whole distribution at the
/// request's temperature.
class Mirostat {
 public:
  Mirostat(float tau, float eta) : tau_(tau), eta_(eta), mu_(2 * tau) {}
  /// `weights` are those of a whole row, `total` their sum. Moves mu.
  int32_t draw(std::span<const float> weights, double total, double uniform);
  double mu() const { return mu_; }

 private:
  double tau_, eta_, mu_;
};

}  // namespace imp
