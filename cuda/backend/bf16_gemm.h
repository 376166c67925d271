#pragma once
#include <functional>
#include <map>
#include <span>

#include "backend/linear_ops.h"

namespace imp::cuda {

/// Copies of the layers' weights as bf16, the values that expanding them for a step gives; kept where the memory plan
/// has room. Weights that one linear multiplies lie one after another.
class Bf16Weights {
 public:
  static uint64_t bytes(int64_t rows, int64_t cols) { return 2 * static_cast<uint64_t>(rows * cols); }
  /// Whether a weight gets one. Weights that are bf16 in the file are read where they are.
  static const char* reject(LinearRole role, WeightFormat format, int64_t cols);

  /// Copies the weights of one linear, in the order of its outputs.
  void add(std::span<const WeightView> weights, const std::function<void*(uint64_t)>& allocate,
           const LaunchContext& context);
  /// [rows, cols], or null.
  const uint16_t* find(const WeightView& weight) const;

 private:
  std::map<const void*, const uint16_t*> copies_;  // by the packed weight's address
};

/// Prefill in bf16 through cuBLASLt from such copies: products read them where they are, and expand nothing. From this
/// many tokens on nothing else is as fast, whatever the weights' own format (docs/performance.md).
inline constexpr int64_t kBf16CopyTokens = 33;
const char* reject_stream_gemm(const LinearProblem& problem);
void launch_stream_gemm(const LinearContext& context, const LinearArgs& args);
const char* reject_bf16_gemm(const LinearProblem& problem);
void launch_bf16_gemm(const LinearContext& context, const LinearArgs& args);

}  // namespace imp::cuda
