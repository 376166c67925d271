#pragma once
#include <functional>
#include <map>
#include <vector>

#include "backend/linear_ops.h"

namespace imp::cuda {

/// attention.fp8_prefill: copies of the layers' weights in e4m3, one fp32 scale a row, made from the packed weights at
/// load. Weights that one linear multiplies lie one after another.
class Fp8Weights {
 public:
  struct View {
    const uint8_t* codes;  // [rows, cols]
    const float* scales;   // [rows]
  };

  /// Bytes of the copy of a weight.
  static uint64_t bytes(int64_t rows, int64_t cols) { return static_cast<uint64_t>(rows * cols + rows * 4); }
  /// Whether a weight of this shape gets one.
  static const char* reject(LinearRole role, int64_t cols);

  /// Copies the weights of one linear, in the order of its outputs. `context` gives the scratch for a slice in bf16.
  void add(std::span<const WeightView> weights, const std::function<void*(uint64_t)>& allocate,
           const LinearContext& context);
  const View* find(const WeightView& weight) const;
  bool empty() const { return views_.empty(); }

 private:
  std::map<const void*, View> views_;  // by the packed weight's address
};

const char* reject_fp8_gemm(const LinearProblem& problem);
void launch_fp8_gemm(const LinearContext& context, const LinearArgs& args);

}  // namespace imp::cuda
