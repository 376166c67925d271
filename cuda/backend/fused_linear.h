#pragma once
#include "backend/linear_ops.h"

namespace imp::cuda {

// Products of many tokens that expand weights on the way to the tensor cores (linear/fused_gemm.h): outputs of one
// format are one launch, with bias, residual and activation in it, and no weight is written back to memory.

/// Q4_K where gemm.q4k_hmma_enabled asks for it.
inline constexpr int64_t kHmmaFewestTokens = 32;
const char* reject_gemm_hmma(const LinearProblem& problem);
void launch_gemm_hmma(const LinearContext& context, const LinearArgs& args);

/// Where it is faster than expanding weights first (sm_90). Outputs may differ in format.
const char* reject_gemm_wgmma(const LinearProblem& problem);
void launch_gemm_wgmma(const LinearContext& context, const LinearArgs& args);

}  // namespace imp::cuda
