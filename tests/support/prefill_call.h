#pragma once
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "backend/bf16_gemm.h"
#include "backend/fp8_gemm.h"
#include "support/compare.h"
#include "support/linear_workspace.h"

namespace imp::test {

/// One linear through the GEMM of prefills; y as fp32 whatever its type, rows of all outputs side by side.
struct PrefillCall {
  LinearWorkspace& workspace;
  std::vector<const Operand*> weights;
  int64_t m;
  bool bias = false, gated = false, accumulate = false;
  std::string_view candidate = "dequant_gemm_bf16";  // empty: as the table chooses
  cuda::LinearSwitches switches = {};
  const cuda::Bf16Weights* bf16_copies = nullptr;
  const cuda::Fp8Weights* fp8_copies = nullptr;
  int num_sms = 0;  // other than the device has

  int64_t width() const {
    int64_t n = 0;
    for (const Operand* w : weights) n += gated && n > 0 ? 0 : w->host.view.rows;
    return n;
  }
  std::vector<float> run(const void* x, DType x_type, DType y_type) const {
    const int64_t k = weights[0]->host.view.cols, stride = width();
    const bool bf16 = y_type == DType::bf16;
    const DeviceArray<float> wide(std::vector<float>(bf16 ? 0 : m * stride, accumulate ? 0.5f : kNan));
    const DeviceArray<uint16_t> narrow(std::vector<uint16_t>(bf16 ? m * stride : 0, 0x7fc0));
    std::vector<std::unique_ptr<DeviceArray<float>>> biases;
    std::vector<LinearOutput> outputs;
    int64_t column = 0;
    for (const Operand* w : weights) {
      biases.push_back(std::make_unique<DeviceArray<float>>(w->bias));
      TensorView y = {bf16 ? static_cast<void*>(narrow.data()) : wide.data() + column, y_type, m, w->host.view.rows,
                      stride};
      if (gated && column > 0) y = {};
      outputs.push_back({w->device.view(), bias ? biases.back()->data() : nullptr, y});
      column += w->host.view.rows;
    }
    cuda::LinearContext context = workspace.context(true);
    context.switches = switches;
    context.bf16 = bf16_copies;
    context.fp8 = fp8_copies;
    if (num_sms > 0) context.launch.num_sms = num_sms;
    cuda::run_linear(
        context,
        {.x = {const_cast<void*>(x), x_type, m, k, k}, .outputs = outputs, .accumulate = accumulate, .gated = gated},
        candidate);
    if (!bf16) return wide.download();
    std::vector<float> values;
    for (uint16_t bits : narrow.download()) values.push_back(bf16_to_f32(bits));
    return values;
  }
};

/// fp32 values that bf16 holds, and the same as bf16.
inline std::pair<std::vector<float>, std::vector<uint16_t>> bf16_values(Random& random, int64_t rows, int64_t cols) {
  std::vector<float> wide = random.outlier_heavy(rows, cols);
  std::vector<uint16_t> narrow;
  for (float& x : wide) narrow.push_back(f32_to_bf16(x)), x = bf16_to_f32(narrow.back());
  return {wide, narrow};
}

}  // namespace imp::test
