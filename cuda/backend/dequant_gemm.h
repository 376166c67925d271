#pragma once
#include "backend/linear_ops.h"

namespace imp::cuda {

/// Prefill in bf16 through cuBLASLt: h becomes bf16 once a linear, rows of the weights become bf16 a slice at a time,
/// and the library multiplies. Weights that are bf16 in the file are read where they are.
const char* reject_dequant_gemm(const LinearProblem& problem);
void launch_dequant_gemm(const LinearContext& context, const LinearArgs& args);

/// h as bf16, rows x.cols apart: x itself where it is that already, else converted into the workspace.
const void* inputs_as_bf16(const LinearContext& context, const LinearArgs& args);

/// Rows of a weight of `rows` that are dequantised and multiplied at a time: all, or equal slices that fit the scratch.
int64_t dequant_slice_rows(const LinearContext& context, int64_t rows, int64_t cols);

}  // namespace imp::cuda
