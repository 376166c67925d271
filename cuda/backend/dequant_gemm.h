#pragma once
#include "backend/linear_ops.h"

namespace imp::cuda {

/// Prefill through cuBLASLt: h becomes bf16 (once a linear), rows of the weights become bf16 a slice at a time, and the
/// tensor cores do the rest. Outputs that lie side by side are one product. Weights that are bf16 in the file are read
/// where they are.
const char* reject_dequant_gemm(const LinearProblem& problem);
void launch_dequant_gemm(const LinearContext& context, const LinearArgs& args);

/// Bytes of LinearContext::gate_up for steps of that many tokens.
int64_t gate_up_bytes(int64_t max_tokens, int64_t max_intermediate);

}  // namespace imp::cuda
