#include "backend/fp8_gemm.h"

#include "backend/prefill_linear.h"
#include "linear/dequantize.h"
#include "norm/to_e4m3.h"

namespace imp::cuda {
namespace {

constexpr int64_t kMinTokens = 129;  // fewer are served by kernels that read the weights as they are in the file

/// Whether b's copy follows that of a.
bool adjacent(const LinearContext& context, const LinearOutput& a, const LinearOutput& b) {
  const Fp8Weights::View *first = context.fp8->find(a.weight), *second = context.fp8->find(b.weight);
  return first->codes + a.weight.rows * a.weight.cols == second->codes &&
         first->scales + a.weight.rows == second->scales;
}

void multiply(const LinearContext& context, const PrefillProduct& product) {
  const Fp8Weights::View& weight = *context.fp8->find(product.parts[0].weight);
  const int64_t k = product.parts[0].weight.cols;
  context.cublaslt->gemm({.a = static_cast<const uint8_t*>(context.x_bf16) + product.first_token * k,
                          .w = weight.codes,
                          .y = product.y,
                          .m = product.tokens,
                          .n = product.rows(),
                          .k = k,
                          .y_stride = product.y_stride,
                          .y_type = product.y_type,
                          .accumulate = product.accumulate,
                          .inputs = GemmInputs::e4m3,
                          .a_scale = context.x_scales + product.first_token,
                          .w_scale = weight.scales},
                         context.launch.stream);
}

}  // namespace

const char* Fp8Weights::reject(LinearRole role, int64_t cols) {
  if (role == LinearRole::lm_head) return "the head is no prefill product";
  if (cols % 16 != 0) return "k is not a multiple of 16";
  if (cols > kE4m3MaxCols) return "rows are longer than 32768";
  return nullptr;
}

void Fp8Weights::add(std::span<const WeightView> weights, const std::function<void*(uint64_t)>& allocate,
                     const LinearContext& context) {
  int64_t rows = 0;
  const int64_t cols = weights[0].cols;
  for (const WeightView& weight : weights) rows += weight.rows;
  auto* codes = static_cast<uint8_t*>(allocate(bytes(rows, cols)));
  auto* scales = reinterpret_cast<float*>(codes + rows * cols);  // cols is a multiple of 16
  for (const WeightView& weight : weights) {
    const int64_t slice = std::max<int64_t>(1, context.weight_elements / cols);
    for (int64_t first = 0; first < weight.rows; first += slice) {
      const int64_t count = std::min(slice, weight.rows - first);
      dequantize_bf16(weight, first, count, context.weight_bf16, context.launch);
      to_e4m3({context.weight_bf16, cols, nullptr, nullptr, 0, static_cast<int>(count), static_cast<int>(cols), nullptr,
               DType::bf16},
              codes + first * cols, scales + first, context.launch);
    }
    views_[weight.data] = {codes, scales};
    codes += weight.rows * cols;
    scales += weight.rows;
  }
}

const Fp8Weights::View* Fp8Weights::find(const WeightView& weight) const {
  const auto found = views_.find(weight.data);
  return found == views_.end() ? nullptr : &found->second;
}

const char* reject_fp8_gemm(const LinearProblem& p) {
  if (!p.fp8) return "attention.fp8_prefill is not set";
  if (const char* reason = Fp8Weights::reject(p.role, p.k)) return reason;
  if (p.m < kMinTokens) return "at most 128 tokens";
  if (p.scaled) return "the weight has a scale of its own";
  return nullptr;
}

void launch_fp8_gemm(const LinearContext& context, const LinearArgs& args) {
  to_e4m3({args.x.data, args.x.row_stride, args.row_indices, args.norm_weight, args.norm_epsilon,
           static_cast<int>(args.tokens()), static_cast<int>(args.x.cols), nullptr, args.x.dtype},
          context.x_bf16, context.x_scales, context.launch);
  run_prefill_products(context, args,
                       {.joins = [&](const LinearOutput& a, const LinearOutput& b) { return adjacent(context, a, b); },
                        .multiply = [&](const PrefillProduct& product) { multiply(context, product); }});
}

}  // namespace imp::cuda
