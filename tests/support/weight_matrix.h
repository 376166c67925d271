#pragma once
#include <cstring>
#include <vector>

#include "core/half.h"
#include "model/weights.h"
#include "support/random.h"

namespace imp::test {

/// Where a block keeps its f16 scales; random bytes there would make infinities.
inline std::vector<int> f16_fields(WeightFormat format) {
  switch (format) {
    case WeightFormat::q4_1:
    case WeightFormat::q5_1:
    case WeightFormat::q4_k:
    case WeightFormat::q5_k: return {0, 2};
    case WeightFormat::q2_k: return {80, 82};
    case WeightFormat::q3_k: return {108};
    case WeightFormat::q6_k: return {208};
    case WeightFormat::mxfp4:
    case WeightFormat::nvfp4: return {};
    default: return {0};
  }
}

/// A weight matrix with random codes and scales of the usual size.
struct WeightMatrix {
  std::vector<std::byte> bytes;
  std::vector<float> values;  // dequantized
  WeightView view;

  WeightMatrix(WeightFormat format, int64_t rows, int64_t cols, Random& random, float scale = 1) {
    bytes.resize(rows * row_bytes(format, cols));
    fill(format, rows * cols, random);
    values.resize(rows * cols);
    dequantize(format, bytes.data(), values.data(), rows * cols);
    view = {.data = bytes.data(), .format = format, .rows = rows, .cols = cols, .scale = scale};
  }

 private:
  void fill(WeightFormat format, int64_t count, Random& random) {
    if (format == WeightFormat::f32 || format == WeightFormat::f16 || format == WeightFormat::bf16) {
      for (int64_t i = 0; i < count; ++i) {
        const float value = 0.05f * random.normal();
        const uint16_t half = format == WeightFormat::f16 ? f32_to_f16(value) : f32_to_bf16(value);
        if (format == WeightFormat::f32)
          std::memcpy(&bytes[i * 4], &value, 4);
        else
          std::memcpy(&bytes[i * 2], &half, 2);
      }
      return;
    }
    const int64_t block_bytes = info(format).block_bytes;
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.bits());
    for (int64_t block = 0; block < static_cast<int64_t>(bytes.size()) / block_bytes; ++block) {
      std::byte* at = &bytes[block * block_bytes];
      for (int field : f16_fields(format)) {
        const uint16_t half = f32_to_f16(0.002f * random.normal());
        std::memcpy(at + field, &half, 2);
      }
      if (format == WeightFormat::mxfp4) at[0] = static_cast<std::byte>(random.integer(118, 126));
    }
  }
};

}  // namespace imp::test
