#pragma once
#include "backend/linear_ops.h"

namespace imp::cuda {

/// gemm.cublas_fp16_acc: prefill with factors, sums and results in f16 through cuBLASLt, which GeForce cards run at
/// twice the rate of fp32 sums. What exceeds 65504 becomes infinite.
const char* reject_f16_gemm(const LinearProblem& problem);
void launch_f16_gemm(const LinearContext& context, const LinearArgs& args);

}  // namespace imp::cuda
