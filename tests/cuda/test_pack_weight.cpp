#include <doctest/doctest.h>

#include "linear/dequantize.h"
#include "support/compare.h"
#include "support/cuda_device.h"

using namespace imp;
using namespace imp::test;

namespace {

/// Widths with a whole last strip, a short one, and less than one.
std::vector<int64_t> widths(const FormatInfo& format) {
  if (format.block_elements == 1) return {8, 264, 2048};
  std::vector<int64_t> all;
  for (int64_t k : {1, 1056, 2048, 2560}) {
    const int64_t unit = std::max(32, format.block_elements);
    all.push_back((k + unit - 1) / unit * unit);
  }
  return all;
}

}  // namespace

TEST_CASE("packing keeps every number: rows of the table come back bit for bit") {
  Random random(1);
  TestDevice device;
  for (const FormatInfo& format : all_formats()) {
    for (int64_t cols : widths(format)) {
      const int64_t rows = 11;
      const WeightMatrix matrix(format.format, rows, cols, random);
      const PackedMatrix packed(matrix, device.context());
      const std::vector<int32_t> ids = {10, 0, 3, 3, 7, 4, 1, 2, 5, 6, 8, 9}, drawn = {0, 4};
      std::vector<int32_t> asked = ids;
      asked[5] = -2;  // taken from `drawn`
      const DeviceArray<int32_t> dids(asked), ddrawn(drawn);
      for (float scale : {1.0f, 22.627417f}) {
        const int64_t stride = cols + 3;
        const DeviceArray<float> out(std::vector<float>(ids.size() * stride, -7));
        const TensorView out_view = {out.data(), DType::f32, static_cast<int64_t>(ids.size()), cols, stride};
        cuda::embed_rows({packed.view(), dids.data(), scale, out_view, ddrawn.data()}, device.context(true));
        std::vector<float> expected(ids.size() * stride, -7);
        for (size_t t = 0; t < ids.size(); ++t)
          for (int64_t c = 0; c < cols; ++c) expected[t * stride + c] = matrix.values[ids[t] * cols + c] * scale;
        CAPTURE(format.name);
        CAPTURE(cols);
        CHECK(difference(expected, out.download(), {}) == "");
      }
    }
  }
}

TEST_CASE("the bf16 scratch of a GEMM holds the weights rounded to the nearest, from any row on") {
  Random random(2);
  TestDevice device;
  for (const FormatInfo& format : all_formats()) {
    for (int64_t cols : widths(format)) {
      const int64_t rows = 13;
      const WeightMatrix matrix(format.format, rows, cols, random, format.format == WeightFormat::nvfp4 ? 0.3f : 1.0f);
      const PackedMatrix packed(matrix, device.context());
      for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 13}, {5, 3}, {12, 1}}) {
        const DeviceArray<uint16_t> out(std::vector<uint16_t>(count * cols, 0x7fc0));
        cuda::dequantize_bf16(packed.view(), first, count, out.data(), device.context(true));
        std::vector<float> expected, found;
        for (int64_t i = first * cols; i < (first + count) * cols; ++i)
          expected.push_back(bf16_to_f32(f32_to_bf16(matrix.values[i] * matrix.view.scale)));
        for (uint16_t bits : out.download()) found.push_back(bf16_to_f32(bits));
        CAPTURE(format.name);
        CAPTURE(cols);
        CAPTURE(first);
        CHECK(difference(expected, found, {}) == "");
      }
    }
  }
}
