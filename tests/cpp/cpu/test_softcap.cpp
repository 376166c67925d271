#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "cpu/softcap.h"
#include "reference/reference.h"
#include "support/compare.h"
#include "support/cpu_context.h"
#include "support/random.h"

using namespace imp;
using namespace imp::test;

// tanh_simd is good to about 4e-7 relative; dividing by and multiplying with the cap round twice more.
constexpr Tolerance kTolerance = {.absolute = 1e-30, .relative = 8e-7};

TEST_CASE("every kernel equals the reference from the smallest to the largest values") {
  Random random(1);
  for (int64_t count : {0, 1, 7, 15, 16, 33, 255, 257, 5000}) {
    for (float cap : {0.5f, 30.0f, 50.0f}) {
      std::vector<float> x(count);
      for (float& value : x) value = random.normal() * std::pow(10.0f, static_cast<float>(random.integer(-12, 6)));
      std::vector<float> expected = x;
      reference::softcap({f32_view(expected.data(), 1, count), cap});
      for (const auto& candidate : cpu::softcap_table().entries()) {
        if (candidate.reject({cpu::detect_isa()})) continue;
        std::vector<float> found = x;
        candidate.launch(found.data(), count, cap);
        CAPTURE(candidate.name);
        CHECK(difference(expected, found, kTolerance) == "");
      }
    }
  }
}

TEST_CASE("infinities become the cap and NaN stays") {
  for (const auto& candidate : cpu::softcap_table().entries()) {
    if (candidate.reject({cpu::detect_isa()})) continue;
    const float inf = std::numeric_limits<float>::infinity();
    std::vector<float> x(20, 1.0f);
    x[0] = inf, x[1] = -inf, x[2] = std::nanf(""), x[19] = inf;
    candidate.launch(x.data(), 20, 30.0f);
    CHECK(x[0] == 30.0f);
    CHECK(x[1] == -30.0f);
    CHECK(std::isnan(x[2]));
    CHECK(x[19] == 30.0f);
  }
}

TEST_CASE("rows with a stride over several threads") {
  const int64_t rows = 3, cols = 9001, stride = 9010;
  Random random(2);
  std::vector<float> x = random.normals(rows * stride, 40.0f), expected = x;
  reference::softcap({{expected.data(), DType::f32, rows, cols, stride}, 30.0f});
  std::vector<float> first;
  for (int threads : {1, 2, 5}) {
    TestCpu cpu(threads);
    std::vector<float> found = x;
    cpu::run_softcap(cpu.context(), {{found.data(), DType::f32, rows, cols, stride}, 30.0f});
    CHECK(difference(expected, found, kTolerance) == "");
    if (first.empty()) first = found;
    CHECK(same_bits(first, found));
  }
}
