#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "norm/elementwise.h"
#include "norm/to_e4m3.h"
#include "reference/reference.h"
#include "support/compare.h"
#include "support/cuda_device.h"

using namespace imp;
using namespace imp::test;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr Tolerance kFp32 = {1e-7, 4e-6};

}  // namespace

TEST_CASE("rms_norm: into another row, in place, and added to the residual") {
  Random random(1);
  TestDevice device;
  for (int64_t rows : {1, 3, 70}) {
    for (int64_t cols : {1, 31, 256, 1000, 5120}) {
      for (int mode = 0; mode < 3; ++mode) {
        const int64_t stride = cols + 3;
        std::vector<float> x = random.outlier_heavy(rows, stride), weight = random.normals(cols),
                           y = random.normals(rows * stride);
        const DeviceArray<float> dx(x), dweight(weight), dy(y);
        const auto args = [&](float* in, const float* w, float* out) {
          const TensorView in_view = {in, DType::f32, rows, cols, stride},
                           out_view = {out, DType::f32, rows, cols, stride};
          if (mode == 2) return RmsNormArgs{in_view, w, 1e-6f, {}, out_view};
          return RmsNormArgs{in_view, w, 1e-6f, mode == 1 ? in_view : out_view, {}};
        };
        cuda::rms_norm(args(dx.data(), dweight.data(), dy.data()), device.context(true));
        reference::rms_norm(args(x.data(), weight.data(), y.data()));
        CAPTURE(rows);
        CAPTURE(cols);
        CAPTURE(mode);
        CHECK(difference(x, dx.download(), kFp32) == "");
        CHECK(difference(y, dy.download(), {2e-6, 4e-6}) == "");
      }
    }
  }
}

TEST_CASE("softcap") {
  Random random(2);
  TestDevice device;
  const int64_t rows = 5, cols = 1001, stride = 1003;
  std::vector<float> x = random.outlier_heavy(rows, stride, 3);
  x[7] = INFINITY, x[8] = -INFINITY, x[9] = kNan;
  const DeviceArray<float> dx(x);
  cuda::softcap({{dx.data(), DType::f32, rows, cols, stride}, 30.0f}, device.context(true));
  reference::softcap({{x.data(), DType::f32, rows, cols, stride}, 30.0f});
  CHECK(difference(x, dx.download(), kFp32) == "");
}

TEST_CASE("to_bf16 rounds rows to the nearest, normed or not") {
  Random random(3);
  TestDevice device;
  const int64_t cols = 600;
  const std::vector<float> x = random.outlier_heavy(7, cols), norm = random.normals(cols);
  const std::vector<int32_t> rows = {6, 0, 0, 3, 2};
  const DeviceArray<float> dx(x), dnorm(norm);
  const DeviceArray<int32_t> drows(rows);
  for (bool normed : {false, true}) {
    const DeviceArray<uint16_t> out(std::vector<uint16_t>(rows.size() * cols, 0x7fc0));
    cuda::to_bf16({dx.data(), cols, drows.data(), normed ? dnorm.data() : nullptr, 1e-5f, static_cast<int>(rows.size()),
                   static_cast<int>(cols), out.data()},
                  device.context(true));
    const std::vector<uint16_t> found = out.download();
    int64_t wrong = 0;
    for (size_t t = 0; t < rows.size(); ++t) {
      double sum_sq = 0;
      for (int64_t c = 0; c < cols; ++c) sum_sq += std::pow(double{x[rows[t] * cols + c]}, 2);
      const double scale = 1 / std::sqrt(sum_sq / cols + 1e-5f);
      for (int64_t c = 0; c < cols; ++c) {
        const double exact = normed ? x[rows[t] * cols + c] * scale * norm[c] : double{x[rows[t] * cols + c]};
        const float got = bf16_to_f32(found[t * cols + c]);
        // Half a step of bf16; behind a norm, what fp32 adds.
        wrong += !(std::fabs(got - exact) <= std::fabs(exact) * (0x1p-8 + (normed ? 1e-6 : 0)));
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("gated activation with biases, and bias alone") {
  Random random(4);
  TestDevice device;
  const int64_t tokens = 9, cols = 777, stride = 800;
  const std::vector<float> gate = random.outlier_heavy(tokens, cols), up = random.outlier_heavy(tokens, cols);
  const std::vector<float> gate_bias = random.normals(cols), up_bias = random.normals(cols);
  const DeviceArray<float> dgate(gate), dup(up), dgate_bias(gate_bias), dup_bias(up_bias);
  for (Activation activation : {Activation::silu, Activation::gelu_tanh}) {
    for (bool biased : {false, true}) {
      const DeviceArray<float> y(std::vector<float>(tokens * stride, kNan));
      cuda::gated_activation({.gate = dgate.data(),
                              .up = dup.data(),
                              .in_stride = cols,
                              .in_type = DType::f32,
                              .gate_bias = biased ? dgate_bias.data() : nullptr,
                              .up_bias = biased ? dup_bias.data() : nullptr,
                              .y = y.data(),
                              .y_type = DType::f32,
                              .y_stride = stride,
                              .tokens = tokens,
                              .cols = cols,
                              .activation = activation},
                             device.context(true));
      std::vector<float> expected(tokens * stride, kNan);
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t c = 0; c < cols; ++c) {
          const double g = double{gate[t * cols + c]} + (biased ? gate_bias[c] : 0);
          const double u = double{up[t * cols + c]} + (biased ? up_bias[c] : 0);
          expected[t * stride + c] = static_cast<float>(reference::activate(activation, g) * u);
        }
      }
      CAPTURE(biased);
      // Where the gate is far below zero its activation is a difference of near equals: bounded in size, not
      // relatively.
      CHECK(difference(expected, y.download(), {3e-4, 2e-5}) == "");
    }
  }
  std::vector<float> y = random.normals(tokens * stride);
  const DeviceArray<float> dy(y);
  cuda::add_bias(dy.data(), stride, dgate_bias.data(), tokens, cols, device.context(true));
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t c = 0; c < cols; ++c) y[t * stride + c] += gate_bias[c];
  CHECK(same_bits(y, dy.download()));
}

TEST_CASE("vectors and odd widths: to_bf16 and the gated activation, from and into bf16") {
  Random random(5);
  TestDevice device;
  const auto as_bf16 = [](std::vector<float>& values) {
    std::vector<uint16_t> bits;
    for (float& x : values) bits.push_back(f32_to_bf16(x)), x = bf16_to_f32(bits.back());
    return bits;
  };
  for (int64_t cols : {8, 200, 264, 1000, 4096, 5120, 9000, 17000, 31}) {
    const int64_t rows = 3;
    std::vector<float> x = random.outlier_heavy(rows, cols), up = random.outlier_heavy(rows, cols);
    const std::vector<float> norm = random.normals(cols), bias = random.normals(cols);
    const DeviceArray<uint16_t> narrow(as_bf16(x)), narrow_up(as_bf16(up));
    const DeviceArray<float> wide(x), wide_up(up), dnorm(norm), dbias(bias);
    CAPTURE(cols);
    for (bool normed : {false, true}) {
      std::vector<std::vector<uint16_t>> found;
      for (DType type : {DType::f32, DType::bf16}) {
        const DeviceArray<uint16_t> out(std::vector<uint16_t>(rows * cols, 0x7fc0));
        cuda::to_bf16({type == DType::f32 ? static_cast<void*>(wide.data()) : narrow.data(), cols, nullptr,
                       normed ? dnorm.data() : nullptr, 1e-5f, rows, static_cast<int>(cols), out.data(), type},
                      device.context(true));
        found.push_back(out.download());
      }
      CHECK(found[0] == found[1]);  // the same numbers, whatever held them
      int64_t wrong = 0;
      for (int64_t t = 0; t < rows; ++t) {
        double sum_sq = 0;
        for (int64_t c = 0; c < cols; ++c) sum_sq += std::pow(double{x[t * cols + c]}, 2);
        const double scale = 1 / std::sqrt(sum_sq / double(cols) + 1e-5f);
        for (int64_t c = 0; c < cols; ++c) {
          const double exact = normed ? x[t * cols + c] * scale * norm[c] : double{x[t * cols + c]};
          wrong += !(std::fabs(bf16_to_f32(found[0][t * cols + c]) - exact) <= std::fabs(exact) * (0x1p-8 + 1e-6));
        }
      }
      CHECK(wrong == 0);
    }
    for (DType type : {DType::f32, DType::bf16}) {  // into f16
      const DeviceArray<uint16_t> out(std::vector<uint16_t>(rows * cols, 0x7e00));
      cuda::to_bf16({type == DType::f32 ? static_cast<void*>(wide.data()) : narrow.data(), cols, nullptr, nullptr,
                     1e-5f, rows, static_cast<int>(cols), out.data(), type, DType::f16},
                    device.context(true));
      const std::vector<uint16_t> found = out.download();
      int64_t wrong = 0;
      for (int64_t i = 0; i < rows * cols; ++i) wrong += found[i] != f32_to_f16(x[i]);
      CHECK(wrong == 0);
    }
    std::vector<float> half_x = x, half_up = up;
    const auto as_f16 = [](std::vector<float>& values) {
      std::vector<uint16_t> bits;
      for (float& value : values) bits.push_back(f32_to_f16(value)), value = f16_to_f32(bits.back());
      return bits;
    };
    const DeviceArray<uint16_t> half(as_f16(half_x)), half_of_up(as_f16(half_up));
    for (DType result : {DType::f32, DType::bf16}) {
      const DeviceArray<float> y32(std::vector<float>(rows * cols, kNan));
      const DeviceArray<uint16_t> y16(std::vector<uint16_t>(rows * cols, 0x7fc0));
      const bool bf16_out = result == DType::bf16;
      cuda::gated_activation({.gate = half.data(),
                              .up = half_of_up.data(),
                              .in_stride = cols,
                              .in_type = DType::f16,
                              .gate_bias = nullptr,
                              .up_bias = dbias.data(),
                              .y = bf16_out ? static_cast<void*>(y16.data()) : y32.data(),
                              .y_type = result,
                              .y_stride = cols,
                              .tokens = rows,
                              .cols = static_cast<int>(cols),
                              .activation = Activation::gelu_tanh},
                             device.context(true));
      std::vector<float> found = y32.download(), expected;
      if (bf16_out) {
        found.clear();
        for (uint16_t bits : y16.download()) found.push_back(bf16_to_f32(bits));
      }
      for (int64_t i = 0; i < rows * cols; ++i)
        expected.push_back(static_cast<float>(reference::activate(Activation::gelu_tanh, double{half_x[i]}) *
                                              (double{half_up[i]} + bias[i % cols])));
      CHECK(difference(expected, found, {3e-4, bf16_out ? 0x1p-8 + 2e-5 : 2e-5}) == "");
    }
    for (const auto& [in, result] :
         {std::pair{DType::f32, DType::f32}, {DType::f32, DType::bf16}, {DType::bf16, DType::bf16}}) {
      const DeviceArray<float> y32(std::vector<float>(rows * cols, kNan));
      const DeviceArray<uint16_t> y16(std::vector<uint16_t>(rows * cols, 0x7fc0));
      const bool bf16_in = in == DType::bf16, bf16_out = result == DType::bf16;
      cuda::gated_activation({.gate = bf16_in ? static_cast<void*>(narrow.data()) : wide.data(),
                              .up = bf16_in ? static_cast<void*>(narrow_up.data()) : wide_up.data(),
                              .in_stride = cols,
                              .in_type = in,
                              .gate_bias = dbias.data(),
                              .up_bias = nullptr,
                              .y = bf16_out ? static_cast<void*>(y16.data()) : y32.data(),
                              .y_type = result,
                              .y_stride = cols,
                              .tokens = rows,
                              .cols = static_cast<int>(cols),
                              .activation = Activation::silu},
                             device.context(true));
      std::vector<float> found = y32.download(), expected;
      if (bf16_out) {
        found.clear();
        for (uint16_t bits : y16.download()) found.push_back(bf16_to_f32(bits));
      }
      for (int64_t i = 0; i < rows * cols; ++i)
        expected.push_back(
            static_cast<float>(reference::activate(Activation::silu, double{x[i]} + bias[i % cols]) * double{up[i]}));
      CHECK(difference(expected, found, {3e-4, bf16_out ? 0x1p-8 + 2e-5 : 2e-5}) == "");
    }
  }
}

TEST_CASE("to_e4m3: codes times the row's scale, normed or not; a bad row is bad throughout") {
  Random random(6);
  TestDevice device;
  const auto value_of = [](uint8_t code) {
    const int exponent = code >> 3 & 15, mantissa = code & 7;
    const double size = exponent == 0 ? mantissa * 0x1p-9 : (8 + mantissa) * std::ldexp(1.0, exponent - 10);
    return (code & 0x7f) == 0x7f ? double{kNan} : code & 0x80 ? -size : size;
  };
  for (int64_t cols : {16, 512, 4096, 5120, 12288, 20480}) {
    std::vector<float> x = random.outlier_heavy(5, cols);
    std::fill_n(x.begin() + 3 * cols, cols, 0.0f);
    x[4 * cols + 7] = INFINITY;
    std::vector<uint16_t> bits;
    for (float& value : x) bits.push_back(f32_to_bf16(value)), value = bf16_to_f32(bits.back());
    const DeviceArray<uint16_t> narrow(bits);
    const std::vector<float> norm = random.normals(cols);
    const std::vector<int32_t> rows = {2, 0, 3, 4};
    const DeviceArray<float> dx(x), dnorm(norm);
    const DeviceArray<int32_t> drows(rows);
    for (bool normed : {false, true}) {
      const DeviceArray<uint8_t> codes(std::vector<uint8_t>(rows.size() * cols, 0x7f));
      const DeviceArray<float> scales(std::vector<float>(rows.size(), kNan));
      const auto run = [&](const void* from, DType type) {
        cuda::to_e4m3({from, cols, drows.data(), normed ? dnorm.data() : nullptr, 1e-5f, static_cast<int>(rows.size()),
                       static_cast<int>(cols), nullptr, type},
                      codes.data(), scales.data(), device.context(true));
        return std::pair{codes.download(), scales.download()};
      };
      const auto of_bf16 = run(narrow.data(), DType::bf16);
      const auto [found, found_scales] = run(dx.data(), DType::f32);
      CHECK(of_bf16.first == found);  // the same numbers, whatever held them
      CHECK(same_bits(of_bf16.second, found_scales));
      int64_t wrong = 0;
      for (size_t t = 0; t < 3; ++t) {
        double sum_sq = 0;
        for (int64_t c = 0; c < cols; ++c) sum_sq += std::pow(double{x[rows[t] * cols + c]}, 2);
        const double rms = 1 / std::sqrt(sum_sq / double(cols) + 1e-5f);
        for (int64_t c = 0; c < cols; ++c) {
          const double exact = x[rows[t] * cols + c] * (normed ? rms * norm[c] : 1.0);
          const double got = value_of(found[t * cols + c]) * found_scales[t];
          // Half a step: 2^-4 of the value, or of the smallest normal number.
          wrong += !(std::fabs(got - exact) <= std::fabs(exact) * 0x1.01p-4 + found_scales[t] * 0x1.01p-10);
        }
      }
      CAPTURE(cols);
      CAPTURE(normed);
      CHECK(wrong == 0);
      CHECK(!std::isfinite(found_scales[3] * value_of(found[3 * cols])));
    }
  }
}
