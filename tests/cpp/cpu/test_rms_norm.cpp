#include <doctest/doctest.h>

#include <limits>

#include "cpu/rms_norm.h"
#include "reference/reference.h"
#include "support/compare.h"
#include "support/cpu_context.h"
#include "support/random.h"

using namespace imp;
using namespace imp::test;

namespace {

// The sum of squares has no cancellation: n fp32 additions in chains of n / 64 are good to some 1e-6, its root to half
// of that; three more roundings follow.
constexpr Tolerance kTolerance = {.absolute = 0, .relative = 2e-6};
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Case {
  Case(int64_t rows, int64_t cols, uint64_t seed) : rows(rows), cols(cols), stride(cols + 3) {
    Random random(seed);
    const std::vector<float> values = random.outlier_heavy(rows, cols, 3.0f);
    weight = random.normals(cols);
    base = random.normals(rows * stride);
    x.assign(rows * stride, kNan);
    for (int64_t r = 0; r < rows; ++r) std::copy_n(&values[r * cols], cols, &x[r * stride]);
  }
  TensorView view(std::vector<float>& data) const { return {data.data(), DType::f32, rows, cols, stride}; }

  int64_t rows, cols, stride;
  std::vector<float> x, weight, base;
};

}  // namespace

TEST_CASE("every kernel equals the reference, in place and added, at odd sizes") {
  TestCpu cpu(2);
  for (int64_t rows : {0, 1, 7, 33}) {
    for (int64_t cols : {1, 7, 8, 31, 33, 64, 255, 257, 576, 1000}) {
      Case c(rows, cols, rows * 1000 + cols);
      std::vector<float> expected(c.x.size(), -1.0f), expected_sum = c.base;
      reference::rms_norm({c.view(c.x), c.weight.data(), 1e-5f, c.view(expected)});
      reference::rms_norm({c.view(c.x), c.weight.data(), 1e-5f, {}, c.view(expected_sum)});
      for (const auto& candidate : cpu::rms_norm_table().entries()) {
        if (candidate.reject({cpu::detect_isa()})) continue;
        CAPTURE(candidate.name);
        CAPTURE(rows);
        CAPTURE(cols);
        std::vector<float> found(c.x.size(), -1.0f), sum = c.base, in_place = c.x;
        candidate.launch({c.view(c.x), c.weight.data(), 1e-5f, c.view(found)}, {0, rows});
        CHECK(difference(expected, found, kTolerance) == "");  // the -1 between the rows stay, too
        candidate.launch({c.view(in_place), c.weight.data(), 1e-5f, c.view(in_place)}, {0, rows});
        for (int64_t r = 0; r < rows; ++r)
          CHECK(
              same_bits(std::span(found).subspan(r * c.stride, cols), std::span(in_place).subspan(r * c.stride, cols)));
        candidate.launch({c.view(c.x), c.weight.data(), 1e-5f, {}, c.view(sum)}, {0, rows});
        CHECK(difference(expected_sum, sum, {.absolute = 1e-5, .relative = 2e-6}) == "");
      }
    }
  }
}

TEST_CASE("tiny and huge rows") {
  for (float sigma : {1e-18f, 1e-4f, 1e4f, 1e17f}) {
    Random random(9);
    std::vector<float> x = random.normals(576, sigma), weight = random.normals(576), expected(576), found(576);
    reference::rms_norm({f32_view(x.data(), 1, 576), weight.data(), 1e-6f, f32_view(expected.data(), 1, 576)});
    TestCpu cpu;
    cpu::run_rms_norm(cpu.context(),
                      {f32_view(x.data(), 1, 576), weight.data(), 1e-6f, f32_view(found.data(), 1, 576)});
    CHECK(difference(expected, found, kTolerance) == "");
  }
}

TEST_CASE("the same bits for any number of threads") {
  Case c(64, 576, 5);
  std::vector<float> first(c.x.size(), 0.0f);
  TestCpu one(1);
  CHECK(cpu::run_rms_norm(one.context(), {c.view(c.x), c.weight.data(), 1e-5f, c.view(first)}) != "");
  for (int threads : {2, 3, 5}) {
    TestCpu cpu(threads);
    std::vector<float> found(c.x.size(), 0.0f);
    cpu::run_rms_norm(cpu.context(), {c.view(c.x), c.weight.data(), 1e-5f, c.view(found)});
    CHECK(same_bits(first, found));
  }
}

TEST_CASE("a NaN poisons its row alone") {
  Case c(3, 100, 6);
  c.x[c.stride + 50] = kNan;
  TestCpu cpu;
  std::vector<float> found(c.x.size(), 0.0f);
  cpu::run_rms_norm(cpu.context(), {c.view(c.x), c.weight.data(), 1e-5f, c.view(found)});
  for (int64_t col = 0; col < 100; ++col) {
    CHECK(!std::isnan(found[col]));
    CHECK(std::isnan(found[c.stride + col]));
    CHECK(!std::isnan(found[2 * c.stride + col]));
  }
}
