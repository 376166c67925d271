#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "sampling/mirostat.h"
#include "sampling/sampler.h"

using namespace imp;

namespace {

/// Zipf's law, which text follows roughly.
std::vector<float> zipf(size_t size) {
  std::vector<float> weights(size);
  for (size_t i = 0; i < size; ++i) weights[i] = static_cast<float>(1.0 / static_cast<double>(i + 1));
  return weights;
}

}  // namespace

TEST_CASE("the surprise of the drawn tokens comes to tau") {
  const std::vector<float> weights = zipf(30000);
  double total = 0;  // the likeliest token alone surprises by 3.4 bits
  for (float weight : weights) total += weight;
  for (float tau : {4.5f, 6.0f, 8.0f}) {
    CAPTURE(tau);
    Mirostat mirostat(tau, 0.1f);
    double sum = 0;
    for (int step = 0; step < 4000; ++step) {
      const int32_t id = mirostat.draw(weights, total, counter_uniform(1, 0, static_cast<uint64_t>(step)));
      if (step >= 1000) sum -= std::log2(weights[id] / total);
    }
    CHECK(sum / 3000 == doctest::Approx(tau).epsilon(0.02));
  }
}

TEST_CASE("one step of mirostat by hand") {
  const std::vector<float> weights = {8, 4, 2, 1, 1};  // surprises 1, 2, 3, 4, 4
  Mirostat mirostat(1.25f, 0.5f);
  CHECK(mirostat.mu() == 2.5);
  CHECK(mirostat.draw(weights, 16, 0.999) == 1);  // 2, 3 and 4 surprise more than 2.5
  CHECK(mirostat.mu() == doctest::Approx(2.5 - 0.5 * (2 - 1.25)));
  CHECK(mirostat.draw(weights, 16, 0.6) == 0);  // mu is 2.125: tokens 0 and 1 are left, and 0 has 8 of their 12
}

TEST_CASE("the likeliest token stays however small mu is") {
  Mirostat mirostat(0.01f, 1.0f);
  CHECK(mirostat.draw(std::vector<float>{1, 3, 2}, 6, 0.9) == 1);
}
