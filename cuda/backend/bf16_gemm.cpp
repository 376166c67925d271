#include "backend/bf16_gemm.h"

#include "backend/dequant_gemm.h"
#include "backend/prefill_linear.h"
#include "linear/dequantize.h"
#include "linear/gemm_stream.h"

namespace imp::cuda {
namespace {

/// Whether b's copy follows that of a.
bool adjacent(const LinearContext& context, const LinearOutput& a, const LinearOutput& b) {
  return context.bf16->find(a.weight) + a.weight.rows * a.weight.cols == context.bf16->find(b.weight);
}

void multiply_with_library(const LinearContext& context, const void* x, const PrefillProduct& product) {
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

StreamGemmArgs stream_args(const LinearContext& context, const void* x, int64_t tokens, const WeightView& weight,
                           int64_t rows) {
  return {.x = x,
          .tokens = static_cast<int>(tokens),
          .w = context.bf16->find(weight),
          .rows = static_cast<int>(rows),
          .cols = static_cast<int>(weight.cols),
          .partial = context.imma.partial,
          .partial_bytes = context.imma.partial_bytes,
          .counters = context.imma.counters,
          .num_counters = context.imma.num_counters};
}

/// Results that do not lie in pairs, and weights that the copy engine cannot bring, are the library's.
void multiply_streaming(const LinearContext& context, const void* x, const PrefillProduct& product) {
  const WeightView& weight = product.parts[0].weight;
  const int64_t pair_bytes = 2 * dtype_bytes(product.y_type);
  const bool pairs = product.y_stride % 2 == 0 && reinterpret_cast<uintptr_t>(product.y) % pair_bytes == 0;
  if (!pairs || plan_stream_gemm(product.rows(), weight.cols, context.launch.num_sms).splits == 0)
    return multiply_with_library(context, x, product);
  StreamGemmArgs args = stream_args(context, static_cast<const uint16_t*>(x) + product.first_token * weight.cols,
                                    product.tokens, weight, product.rows());
  args.y = product.y, args.y_stride = product.y_stride;
  args.accumulate = product.accumulate;
  args.bf16_out = product.y_type == DType::bf16;
  gemm_stream(args, context.launch);
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

// Below, too many multiprocessors would have nothing to do (docs/performance.md).
constexpr double kStreamLeastBusy = 0.8;

const char* reject_stream_gemm(const LinearProblem& p) {
  if (const char* reason = reject_bf16_gemm(p)) return reason;
  if (p.capability != 90) return "wgmma exists on sm_90 alone";
  if (p.m > kStreamMaxTokens) return "more than 128 tokens";
  if (plan_stream_gemm(p.rows, p.k, p.num_sms).busy < kStreamLeastBusy)
    return "rows cannot be shared out to all multiprocessors";
  return nullptr;
}

void launch_stream_gemm(const LinearContext& context, const LinearArgs& args) {
  const void* x = inputs_as_bf16(context, args);
  const LinearOutput& first = args.outputs[0];
  if (args.gated && !first.bias && !args.outputs[1].bias && adjacent(context, first, args.outputs[1])) {
    StreamGemmArgs gated = stream_args(context, x, args.tokens(), first.weight, 2 * first.weight.rows);
    gated.y = first.y.data, gated.y_stride = first.y.row_stride;
    gated.gated = true, gated.activation = args.activation;
    gated.bf16_out = first.y.dtype == DType::bf16;
    return gemm_stream(gated, context.launch);
  }
  run_prefill_products(context, args,
                       {.joins = [&](const LinearOutput& a, const LinearOutput& b) { return adjacent(context, a, b); },
                        .multiply = [&](const PrefillProduct& product) { multiply_streaming(context, x, product); }});
}

const char* reject_bf16_gemm(const LinearProblem& p) {
  if (!p.bf16_copy) return "no bf16 copy of the weight is kept";
  if (p.scaled) return "the weight has a scale of its own";
  return nullptr;
}

void launch_bf16_gemm(const LinearContext& context, const LinearArgs& args) {
  const void* x = inputs_as_bf16(context, args);
  run_prefill_products(
      context, args,
      {.joins = [&](const LinearOutput& a, const LinearOutput& b) { return adjacent(context, a, b); },
       .multiply = [&](const PrefillProduct& product) { multiply_with_library(context, x, product); }});
}

}  // namespace imp::cuda
