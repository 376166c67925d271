#include "backend/bf16_gemm.h"

#include "backend/dequant_gemm.h"
#include "backend/prefill_linear.h"
#include "linear/dequantize.h"

namespace imp::cuda {
namespace {

/// Whether b's copy follows that of a.
bool adjacent(const LinearContext& context, const LinearOutput& a, const LinearOutput& b) {
  return context.bf16->find(a.weight) + a.weight.rows * a.weight.cols == context.bf16->find(b.weight);
}

void multiply(const LinearContext& context, const void* x, const PrefillProduct& product) {
  const WeightView& weight = product.parts[0].weight;
  context.cublaslt->gemm({.a = static_cast<const uint16_t*>(x) + product.first_token * weight.cols,
                          .w = context.bf16->find(weight),
                          .y = product.y,
                          .m = product.tokens,
                          .n = product.rows(),
                          .k = weight.cols,
                          .y_stride = product.y_stride,
                          .y_type = product.y_type,
                          .accumulate = product.accumulate},
                         context.launch.stream);
}

}  // namespace

const char* Bf16Weights::reject(LinearRole role, WeightFormat format, int64_t cols) {
  if (role == LinearRole::lm_head) return "the head is no prefill product";
  if (format == WeightFormat::bf16) return "the weight is bf16 itself";
  if (cols % 32 != 0) return "k is not a multiple of 32";
  return nullptr;
}

void Bf16Weights::add(std::span<const WeightView> weights, const std::function<void*(uint64_t)>& allocate,
                      const LaunchContext& context) {
  const int64_t cols = weights[0].cols;
  int64_t rows = 0;
  for (const WeightView& weight : weights) rows += weight.rows;
  auto* copy = static_cast<uint16_t*>(allocate(bytes(rows, cols)));
  for (const WeightView& weight : weights) {
    dequantize_bf16(weight, 0, weight.rows, copy, context);
    copies_[weight.data] = copy;
    copy += weight.rows * cols;
  }
}

const uint16_t* Bf16Weights::find(const WeightView& weight) const {
  const auto found = copies_.find(weight.data);
  return found == copies_.end() ? nullptr : found->second;
}

const char* reject_bf16_gemm(const LinearProblem& p) {
  if (!p.bf16_copy) return "no bf16 copy of the weight is kept";
  if (p.scaled) return "the weight has a scale of its own";
  return nullptr;
}

void launch_bf16_gemm(const LinearContext& context, const LinearArgs& args) {
  const void* x = inputs_as_bf16(context, args);
  run_prefill_products(context, args,
                       {.joins = [&](const LinearOutput& a, const LinearOutput& b) { return adjacent(context, a, b); },
                        .multiply = [&](const PrefillProduct& product) { multiply(context, x, product); }});
}

}  // namespace imp::cuda
