#include "backend/f16_gemm.h"

#include <algorithm>

#include "backend/dequant_gemm.h"
#include "backend/prefill_linear.h"
#include "linear/dequantize.h"
#include "norm/elementwise.h"

namespace imp::cuda {
namespace {

/// Rows [first, first + count) of the product's weight as f16, in the scratch.
void rows_as_f16(const LinearContext& context, const PrefillProduct& product, int64_t first, int64_t count) {
  const int64_t k = product.parts[0].weight.cols;
  auto* scratch = static_cast<uint16_t*>(context.weight_bf16);
  for_parts(product, first, count, [&](const WeightView& weight, int64_t row, int64_t rows, int64_t at) {
    dequantize_f16_rows(weight, row, rows, scratch + at * k, context.launch);
  });
}

void multiply_slice(const LinearContext& context, const PrefillProduct& product, int64_t count, void* y,
                    int64_t y_stride, int64_t first_token, int64_t tokens) {
  const int64_t k = product.parts[0].weight.cols;
  context.cublaslt->gemm({.a = static_cast<const uint16_t*>(context.x_bf16) + first_token * k,
                          .w = context.weight_bf16,
                          .y = y,
                          .m = tokens,
                          .n = count,
                          .k = k,
                          .y_stride = y_stride,
                          .y_type = DType::f16,
                          .accumulate = false,
                          .inputs = GemmInputs::f16_f16acc},
                         context.launch.stream);
}

/// A gated linear's products stay f16, for the activation. Others go through a buffer to fp32 rows.
void multiply(const LinearContext& context, const PrefillProduct& product) {
  const int64_t k = product.parts[0].weight.cols, rows = product.rows();
  const int64_t slice = dequant_slice_rows(context, rows, k);
  for (int64_t first = 0; first < rows; first += slice) {
    const int64_t count = std::min(slice, rows - first);
    rows_as_f16(context, product, first, count);
    if (product.y_type == DType::f16) {
      multiply_slice(context, product, count, static_cast<uint16_t*>(product.y) + first, product.y_stride,
                     product.first_token, product.tokens);
      continue;
    }
    const int64_t stride = (count + 7) / 8 * 8, most = std::max<int64_t>(1, context.gate_up_bytes / (2 * stride));
    for (int64_t t = 0; t < product.tokens; t += most) {
      const int64_t tokens = std::min(most, product.tokens - t);
      multiply_slice(context, product, count, context.gate_up, stride, product.first_token + t, tokens);
      f16_to_rows(context.gate_up, stride, static_cast<float*>(product.y) + t * product.y_stride + first,
                  product.y_stride, static_cast<int>(tokens), static_cast<int>(count), product.accumulate,
                  context.launch);
    }
  }
}

}  // namespace

const char* reject_f16_gemm(const LinearProblem& p) {
  return p.switches.f16_sums ? reject_dequant_gemm(p) : "gemm.cublas_fp16_acc is not on";
}

void launch_f16_gemm(const LinearContext& context, const LinearArgs& args) {
  to_bf16({args.x.data, args.x.row_stride, args.row_indices, args.norm_weight, args.norm_epsilon,
           static_cast<int>(args.tokens()), static_cast<int>(args.x.cols), context.x_bf16, args.x.dtype, DType::f16},
          context.launch);
  run_prefill_products(context, args,
                       {.joins = [](const LinearOutput&, const LinearOutput&) { return true; },
                        .multiply = [&](const PrefillProduct& product) { multiply(context, product); },
                        .gate_up_type = DType::f16});
}

}  // namespace imp::cuda
