#include "backend/dequant_gemm.h"

#include <algorithm>

#include "backend/prefill_linear.h"
#include "linear/dequantize.h"
#include "norm/elementwise.h"

namespace imp::cuda {
namespace {

bool is_bf16(const LinearOutput& output) { return output.weight.format == WeightFormat::bf16; }

/// Rows [first, first + count) of the product's weight as bf16: where they are, or in the scratch.
const void* rows_as_bf16(const LinearContext& context, const PrefillProduct& product, int64_t first, int64_t count) {
  const int64_t k = product.parts[0].weight.cols;
  if (is_bf16(product.parts[0])) return static_cast<const uint16_t*>(product.parts[0].weight.data) + first * k;
  auto* scratch = static_cast<uint16_t*>(context.weight_bf16);
  for_parts(product, first, count, [&](const WeightView& weight, int64_t row, int64_t rows, int64_t at) {
    dequantize_bf16(weight, row, rows, scratch + at * k, context.launch);
  });
  return scratch;
}

void multiply(const LinearContext& context, const void* x, const PrefillProduct& product) {
  const int64_t k = product.parts[0].weight.cols, rows = product.rows();
  const int64_t slice = is_bf16(product.parts[0]) ? rows : dequant_slice_rows(context, rows, k);
  for (int64_t first = 0; first < rows; first += slice) {
    const int64_t count = std::min(slice, rows - first);
    context.cublaslt->gemm({.a = static_cast<const uint16_t*>(x) + product.first_token * k,
                            .w = rows_as_bf16(context, product, first, count),
                            .y = static_cast<std::byte*>(product.y) + first * dtype_bytes(product.y_type),
                            .m = product.tokens,
                            .n = count,
                            .k = k,
                            .y_stride = product.y_stride,
                            .y_type = product.y_type,
                            .accumulate = product.accumulate},
                           context.launch.stream);
  }
}

}  // namespace

const void* inputs_as_bf16(const LinearContext& context, const LinearArgs& args) {
  const bool as_it_is = args.x.dtype == DType::bf16 && !args.norm_weight && !args.row_indices &&
                        args.x.row_stride == args.x.cols && reinterpret_cast<uintptr_t>(args.x.data) % 16 == 0;
  if (as_it_is) return args.x.data;
  to_bf16({args.x.data, args.x.row_stride, args.row_indices, args.norm_weight, args.norm_epsilon,
           static_cast<int>(args.tokens()), static_cast<int>(args.x.cols), context.x_bf16, args.x.dtype},
          context.launch);
  return context.x_bf16;
}

/// Of equal size, so that none is left too small to fill the card.
int64_t dequant_slice_rows(const LinearContext& context, int64_t rows, int64_t cols) {
  const int64_t fitting = std::max<int64_t>(8, context.weight_elements / cols / 8 * 8);
  if (rows <= fitting) return rows;
  const int64_t slices = (rows + fitting - 1) / fitting, equal = (rows + slices - 1) / slices;
  return std::min(fitting, (equal + 127) / 128 * 128);
}

const char* reject_dequant_gemm(const LinearProblem& p) {
  if (p.k % 8 != 0) return "k is not a multiple of 8";
  if (info(p.format).block_elements > 1 && p.k % 32 != 0) return "k is not a multiple of 32";
  return nullptr;
}

void launch_dequant_gemm(const LinearContext& context, const LinearArgs& args) {
  const void* x = inputs_as_bf16(context, args);
  run_prefill_products(
      context, args,
      {.joins = [](const LinearOutput& a, const LinearOutput& b) { return !is_bf16(a) && !is_bf16(b); },
       .multiply = [&](const PrefillProduct& product) { multiply(context, x, product); }});
}

}  // namespace imp::cuda
