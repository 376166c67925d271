#pragma once
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

namespace imp::test {

/// A small generator with the same numbers on every machine (splitmix64); tests must not depend on the
/// standard library's distributions, which differ between vendors.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t bits() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// Uniform in [0, 1).
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  /// Uniform in [low, high].
  int64_t integer(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(bits() % static_cast<uint64_t>(high - low + 1));
  }
  float normal() {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return static_cast<float>(radius * std::cos(6.283185307179586 * uniform()));
  }

  std::vector<float> normals(int64_t count, float sigma = 1.0f) {
    std::vector<float> values(count);
    for (float& value : values) value = sigma * normal();
    return values;
  }
  /// Activations as real models have them: normal, with about one channel in 64 some 30 to 100 times larger.
  std::vector<float> outlier_heavy(int64_t rows, int64_t cols, float sigma = 1.0f) {
    std::vector<float> gains(cols, 1.0f);
    for (int64_t i = 0; i < (cols + 63) / 64; ++i)
      gains[integer(0, cols - 1)] = 30.0f + 70.0f * static_cast<float>(uniform());
    std::vector<float> values(rows * cols);
    for (int64_t i = 0; i < rows * cols; ++i) values[i] = sigma * normal() * gains[i % cols];
    return values;
  }
  template <class T>
  void shuffle(std::vector<T>& values) {
    for (size_t i = values.size(); i > 1; --i)
      std::swap(values[i - 1], values[static_cast<size_t>(integer(0, static_cast<int64_t>(i) - 1))]);
  }

 private:
  uint64_t state_;
};

}  // namespace imp::test
