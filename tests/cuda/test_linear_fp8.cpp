#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "support/prefill_call.h"

using namespace imp;
using namespace imp::cuda;
using namespace imp::test;

namespace {

/// The e4m3 number nearest to x, ties to even; |x| is at most 448.
double round_e4m3(double x) {
  if (x == 0) return 0;
  const int exponent = std::max(-6, std::ilogb(x));
  const double step = std::ldexp(1.0, exponent - 3);
  return std::nearbyint(x / step) * step;
}

/// Rows as their e4m3 codes times the row's scale; the same fp32 operations as on the device.
std::vector<double> through_e4m3(const std::vector<float>& values, int64_t cols) {
  std::vector<double> out;
  for (size_t row = 0; row < values.size(); row += static_cast<size_t>(cols)) {
    float amax = 0;
    for (size_t i = row; i < row + static_cast<size_t>(cols); ++i) amax = std::max(amax, std::fabs(values[i]));
    const float inverse = amax > 0 ? 448 / amax : 0;
    const double scale = double{amax} / 448;
    for (size_t i = row; i < row + static_cast<size_t>(cols); ++i)
      out.push_back(round_e4m3(values[i] * inverse) * scale);
  }
  return out;
}

}  // namespace

TEST_CASE("fp8: products of rows rounded to e4m3 with a scale each, at any number of tokens") {
  Random random(12);
  LinearWorkspace workspace;
  const int64_t k = 512;
  for (WeightFormat format : {WeightFormat::q8_0, WeightFormat::q4_k, WeightFormat::bf16}) {
    const Operand q(format, 96, k, random, workspace.device.context()),
        v(format, 32, k, random, workspace.device.context());
    std::vector<std::unique_ptr<DeviceMemory>> memory;
    const auto allocate = [&](uint64_t bytes) {
      return memory.emplace_back(std::make_unique<DeviceMemory>(bytes))->data();
    };
    Fp8Weights copies;
    const WeightView views[] = {q.device.view(), v.device.view()};
    copies.add(views, allocate, workspace.context());
    for (int64_t m : {129, 150, 192}) {
      const std::vector<float> x = random.outlier_heavy(m, k);
      const DeviceArray<float> dx(x);
      const std::vector<float> y = PrefillCall{.workspace = workspace,
                                               .weights = {&q, &v},
                                               .m = m,
                                               .bias = true,
                                               .accumulate = true,
                                               .candidate = "cublaslt_fp8",
                                               .fp8_copies = &copies}
                                       .run(dx.data(), DType::f32, DType::f32);
      const std::vector<double> h = through_e4m3(x, k);
      int64_t wrong = 0, column = 0;
      double error = 0, norm = 0;
      for (const Operand* weight : {&q, &v}) {
        std::vector<float> rounded = weight->host.values;
        for (float& w : rounded) w = bf16_to_f32(f32_to_bf16(w));
        const std::vector<double> w = through_e4m3(rounded, k);
        for (int64_t t = 0; t < m; ++t) {
          for (int64_t r = 0; r < weight->host.view.rows; ++r) {
            double sum = 0, magnitude = 0, exact = 0;
            for (int64_t c = 0; c < k; ++c) {
              const double p = h[t * k + c] * w[r * k + c];
              sum += p, magnitude += std::fabs(p);
              exact += double{x[t * k + c]} * weight->host.values[r * k + c];
            }
            const double found = y[t * 128 + column + r] - 0.5 - weight->bias[r];
            // The tensor cores add fp8 products with 13 fractional bits or so before they reach fp32; a scale of
            // another row would be off by some 5 % of the magnitude.
            wrong += !(std::fabs(found - sum) <= 2e-3 * magnitude + 1e-6);
            error += (found - exact) * (found - exact), norm += exact * exact;
          }
        }
        column += weight->host.view.rows;
      }
      CAPTURE(info(format).name);
      CAPTURE(m);
      CHECK(wrong == 0);
      const double distance = std::sqrt(error / norm);
      MESSAGE(info(format).name, ", ", m, " tokens: ", distance, " from exact operands");
      CHECK(distance < 6e-2);
      CHECK(distance > 1e-3);
    }
  }
}

TEST_CASE("fp8: gate and up through copies that lie side by side or apart") {
  Random random(13);
  LinearWorkspace workspace;
  const int64_t k = 512, n = 128, m = 140;
  const Operand gate(WeightFormat::q8_0, n, k, random, workspace.device.context()),
      up(WeightFormat::q8_0, n, k, random, workspace.device.context());
  std::vector<std::unique_ptr<DeviceMemory>> memory;
  const auto allocate = [&](uint64_t bytes) {
    return memory.emplace_back(std::make_unique<DeviceMemory>(bytes))->data();
  };
  Fp8Weights together, apart;
  const WeightView views[] = {gate.device.view(), up.device.view()};
  together.add(views, allocate, workspace.context());
  apart.add(std::span(views).first(1), allocate, workspace.context());
  apart.add(std::span(views).last(1), allocate, workspace.context());
  const auto [wide, narrow] = bf16_values(random, m, k);
  const DeviceArray<uint16_t> x(narrow);
  const auto run = [&](const Fp8Weights* copies) {
    return PrefillCall{.workspace = workspace,
                       .weights = {&gate, &up},
                       .m = m,
                       .bias = true,
                       .gated = true,
                       .candidate = copies ? "cublaslt_fp8" : "dequant_gemm_bf16",
                       .fp8_copies = copies}
        .run(x.data(), DType::bf16, DType::bf16);
  };
  CHECK(distance(run(&together), run(&apart)) < 1e-3);
  CHECK(distance(run(&together), run(nullptr)) < 0.12);
}
