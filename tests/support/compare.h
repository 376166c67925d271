#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include "core/text.h"

namespace imp::test {

struct Tolerance {
  double absolute = 0;
  double relative = 0;  // of |expected|
};

/// "" where every element agrees (NaN with NaN, infinities of one sign), else a line about how many differ and
/// where the worst is. Use: CHECK(difference(expected, found, tolerance) == "");
inline std::string difference(std::span<const float> expected, std::span<const float> found, Tolerance tolerance) {
  if (expected.size() != found.size()) return cat("expected ", expected.size(), " elements, found ", found.size());
  int64_t bad = 0;
  size_t worst = 0;
  double worst_excess = -1;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double a = expected[i], b = found[i];
    if ((std::isnan(a) && std::isnan(b)) || a == b) continue;
    const double allowed = tolerance.absolute + tolerance.relative * std::abs(a);
    const double error = std::abs(a - b);
    if (error <= allowed) continue;
    ++bad;
    const double excess = std::isfinite(error) && allowed > 0 ? error / allowed : INFINITY;
    if (excess > worst_excess) worst_excess = excess, worst = i;
  }
  if (bad == 0) return "";
  return cat(bad, " of ", expected.size(), " differ; worst at ", worst, ": expected ", expected[worst], ", found ",
             found[worst], ", allowed ", tolerance.absolute + tolerance.relative * std::abs(double(expected[worst])));
}

/// |a - b| / |b|, Euclidean; infinite where a is not finite or of another size.
inline double distance(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return INFINITY;
  double error = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i])) return INFINITY;
    error += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(error / norm);
}

/// The same bits everywhere.
inline bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

}  // namespace imp::test
