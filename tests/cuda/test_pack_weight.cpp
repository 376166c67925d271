#include <doctest/doctest.h>

#include "linear/dequantize.h"
#include "linear/dequantize_f16.h"
#include "support/compare.h"
#include "support/cuda_device.h"

using namespace imp;
using namespace imp::test;

namespace {

/// Widths with a whole last strip, a short one, and less than one.
std::vector<int64_t> widths(const FormatInfo& format) {
  if (format.block_elements == 1) return {8, 12, 264, 2048};
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

        // The same in f16, by two kernels: a slice of a GEMM's weight, and the whole head once at load.
        const DeviceArray<uint16_t> slice(std::vector<uint16_t>(count * cols, 0x7e00)),
            whole(std::vector<uint16_t>(rows * cols, 0x7e00));
        cuda::dequantize_f16_rows(packed.view(), first, count, slice.data(), device.context(true));
        cuda::dequantize_f16(packed.view(), whole.data(), device.context(true));
        const std::vector<uint16_t> part = slice.download(), all = whole.download();
        int64_t wrong = 0;
        for (int64_t i = 0; i < count * cols; ++i) {
          const uint16_t nearest = f32_to_f16(matrix.values[first * cols + i] * matrix.view.scale);
          wrong += part[i] != nearest;
          wrong += all[first * cols + i] != nearest;
        }
        CHECK(wrong == 0);
      }
    }
  }
}

TEST_CASE("any bytes at all: scales of 0, subnormal, largest, negative, infinite and not a number") {
  Random random(3);
  TestDevice device;
  for (const FormatInfo& format : all_formats()) {
    if (format.block_elements == 1) continue;
    for (int64_t cols : widths(format)) {
      const int64_t rows = 12;
      WeightMatrix matrix(format.format, rows, cols, random);
      for (std::byte& byte : matrix.bytes) byte = static_cast<std::byte>(random.bits());
      // Each of these f16, in turn: the extremes are rare among random bits.
      constexpr uint16_t kExtremes[] = {0x0000, 0x8000, 0x0001, 0x83ff, 0x0400, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e01};
      const int64_t blocks = static_cast<int64_t>(matrix.bytes.size()) / format.block_bytes;
      for (int64_t block = 0; block < blocks; block += 2)
        for (int field : f16_fields(format.format))
          std::memcpy(&matrix.bytes[block * format.block_bytes + field],
                      &kExtremes[random.integer(0, std::size(kExtremes) - 1)], 2);
      if (format.format == WeightFormat::mxfp4)
        for (int e = 0; e < 4; ++e) matrix.bytes[e * format.block_bytes] = static_cast<std::byte>(e < 2 ? e : 252 + e);
      if (format.format == WeightFormat::nvfp4)
        for (int i = 0; i < 4; ++i) matrix.bytes[i] = std::byte{(const uint8_t[]){0x7f, 0xff, 0x00, 0x81}[i]};
      dequantize(format.format, matrix.bytes.data(), matrix.values.data(), rows * cols);
      const PackedMatrix packed(matrix, device.context());
      std::vector<int32_t> ids(rows);
      for (int64_t i = 0; i < rows; ++i) ids[i] = static_cast<int32_t>(i);
      const DeviceArray<int32_t> dids(ids);
      const DeviceArray<float> out(std::vector<float>(rows * cols, -7));
      cuda::embed_rows({packed.view(), dids.data(), 1.0f, {out.data(), DType::f32, rows, cols, cols}, nullptr},
                       device.context());
      const DeviceArray<uint16_t> narrow(std::vector<uint16_t>(rows * cols, 0));
      cuda::dequantize_bf16(packed.view(), 0, rows, narrow.data(), device.context());
      std::vector<float> rounded, found;
      for (float value : matrix.values) rounded.push_back(bf16_to_f32(f32_to_bf16(value)));
      for (uint16_t bits : narrow.download()) found.push_back(bf16_to_f32(bits));
      CAPTURE(format.name);
      CAPTURE(cols);
      CHECK(difference(matrix.values, out.download(), {}) == "");
      CHECK(difference(rounded, found, {}) == "");
    }
  }
}

TEST_CASE("a head as f16 rows holds the weights rounded to the nearest") {
  Random random(4);
  TestDevice device;
  for (const FormatInfo& format : all_formats()) {
    for (int64_t cols : widths(format)) {
      const int64_t rows = 7;
      const WeightMatrix matrix(format.format, rows, cols, random, 0.3f);
      const PackedMatrix packed(matrix, device.context());
      const DeviceArray<uint16_t> out(std::vector<uint16_t>(rows * cols, 0x7e00));
      cuda::dequantize_f16(packed.view(), out.data(), device.context());
      std::vector<float> expected, found;
      for (float value : matrix.values)
        expected.push_back(f16_to_f32(f32_to_f16(format.block_elements == 1 ? value : value * 0.3f)));
      for (uint16_t bits : out.download()) found.push_back(f16_to_f32(bits));
      CAPTURE(format.name);
      CAPTURE(cols);
      CHECK(difference(expected, found, {}) == "");
    }
  }
}
