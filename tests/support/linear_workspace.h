#pragma once
#include <cstdint>
#include <limits>
#include <vector>

#include "backend/linear_ops.h"
#include "support/cuda_device.h"

namespace imp::test {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// A weight on the host and on the device, and a bias.
struct Operand {
  WeightMatrix host;
  PackedMatrix device;
  std::vector<float> bias;
  Operand(WeightFormat format, int64_t n, int64_t k, Random& random, const cuda::LaunchContext& context,
          float scale = 1)
      : host(format, n, k, random, scale), device(host, context), bias(random.normals(n, 0.1f)) {}
};

/// Device memory that linears work in, full of NaN.
struct LinearWorkspace {
  static constexpr int64_t kTokens = 260, kCols = 12288, kIntermediate = 2048;
  TestDevice device;
  cuda::CublasLt cublaslt;
  DeviceArray<uint16_t> x_bf16{std::vector<uint16_t>(kTokens * kCols, 0x7fc0)};
  DeviceArray<uint16_t> weight_bf16;
  DeviceArray<float> gate_up{std::vector<float>(kTokens * kIntermediate, kNan)};
  DeviceArray<float> x_scales{std::vector<float>(kTokens, kNan)};
  cuda::DeviceMemory library{size_t{32} << 20};
  DeviceArray<uint8_t> imma_tokens{std::vector<uint8_t>(cuda::imma_tokens_bytes(cuda::kImmaMaxTokens, kCols), 0xff)};
  DeviceArray<float> imma_partial{std::vector<float>(1 << 20, kNan)};
  DeviceArray<int32_t> imma_counters{std::vector<int32_t>(64, 0)};
  int64_t weight_elements;

  explicit LinearWorkspace(int64_t elements = 4 << 20)
      : weight_bf16(std::vector<uint16_t>(elements, 0x7fc0)), weight_elements(elements) {
    cublaslt.open(library.data(), library.bytes(), {});
  }
  cuda::LinearContext context(bool pdl = false) {
    return {.launch = device.context(pdl),
            .switches = {},
            .cublaslt = &cublaslt,
            .x_bf16 = x_bf16.data(),
            .weight_bf16 = weight_bf16.data(),
            .weight_elements = weight_elements,
            .gate_up = gate_up.data(),
            .gate_up_bytes = 4 * kTokens * kIntermediate,
            .x_scales = x_scales.data(),
            .imma = {.tokens = imma_tokens.data(),
                     .tokens_bytes = cuda::imma_tokens_bytes(cuda::kImmaMaxTokens, kCols),
                     .partial = imma_partial.data(),
                     .partial_bytes = 4 << 20,
                     .counters = imma_counters.data(),
                     .num_counters = 64},
            .capability = device.capability};
  }
};

}  // namespace imp::test
