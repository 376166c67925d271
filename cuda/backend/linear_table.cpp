#include "backend/linear_ops.h"
#include "linear/dequantize.h"
#include "linear/gemv.h"
#include "norm/elementwise.h"

namespace imp::cuda {
namespace {

constexpr int64_t kGemvStaticBytes = 1024;  // shared memory that the GEMVs declare themselves

bool is_float(WeightFormat format) {
  return format == WeightFormat::f32 || format == WeightFormat::f16 || format == WeightFormat::bf16;
}

GemvArgs to_gemv(const LinearArgs& args) {
  GemvArgs gemv = {};
  gemv.x = args.x.row<float>(0);
  gemv.x_stride = args.x.row_stride;
  gemv.row_indices = args.row_indices;
  gemv.norm_weight = args.norm_weight;
  gemv.norm_epsilon = args.norm_epsilon;
  gemv.tokens = static_cast<int>(args.tokens());
  for (const LinearOutput& output : args.outputs)
    gemv.outputs[gemv.num_outputs++] = {packed_view(output.weight), output.bias, static_cast<float*>(output.y.data),
                                        output.y.row_stride, output.weight.scale};
  gemv.accumulate = args.accumulate;
  gemv.gated = args.gated;
  gemv.activation = args.activation;
  return gemv;
}

const char* reject_gemv_dp4a(const LinearProblem& p) {
  if (is_float(p.format)) return "weight is not a block format";
  if (p.mixed) return "gate and up are stored in different formats";
  if (p.m > kGemvMaxTokens) return "more than 8 tokens";
  if (p.k % 32 != 0) return "k is not a multiple of 32";
  if (gemv_dp4a_shared_bytes(static_cast<int>(p.k), static_cast<int>(p.m)) + kGemvStaticBytes > p.max_shared_bytes)
    return "activations do not fit into shared memory";
  if (p.switches.no_mmvq) return "gemm.no_mmvq is set";
  if (p.switches.no_dp4a_gemv) return "gemm.no_dp4a_gemv is set";
  if (p.switches.no_dp4a_lm && p.role == LinearRole::lm_head) return "gemm.no_dp4a_lm is set";
  if (p.switches.no_mmvq_q8_0 && p.format == WeightFormat::q8_0) return "gemm.no_mmvq_q8_0 is set";
  return nullptr;
}
void launch_gemv_dp4a(const LinearContext& context, const LinearArgs& args) {
  gemv_dp4a(static_cast<PackedLayout>(args.outputs[0].weight.layout), to_gemv(args), context.launch);
}

const char* reject_gemv_rows(const LinearProblem& p) {
  if (!is_float(p.format)) return "weight is a block format";
  if (p.mixed) return "gate and up are stored in different formats";
  if (p.m > kGemvMaxTokens) return "more than 8 tokens";
  if (p.k % 8 != 0) return "k is not a multiple of 8";
  if (gemv_rows_shared_bytes(p.format, static_cast<int>(p.k), static_cast<int>(p.m)) + kGemvStaticBytes >
      p.max_shared_bytes)
    return "activations do not fit into shared memory";
  return nullptr;
}
void launch_gemv_rows(const LinearContext& context, const LinearArgs& args) {
  gemv_rows(args.outputs[0].weight.format, to_gemv(args), context.launch);
}

/// One output of a prefill: rows of the weight become bf16 a slice at a time, and go through the tensor cores.
void gemm_output(const LinearContext& context, const LinearArgs& args, const WeightView& weight, float* y,
                 int64_t y_stride, bool accumulate) {
  const int64_t m = args.tokens(), k = weight.cols;
  const int64_t slice = std::max<int64_t>(8, context.weight_elements / k / 8 * 8);
  for (int64_t first = 0; first < weight.rows; first += slice) {
    const int64_t rows = std::min(slice, weight.rows - first);
    const void* w = static_cast<const uint16_t*>(weight.data) + first * k;
    if (weight.format != WeightFormat::bf16) {
      dequantize_bf16(weight, first, rows, context.weight_bf16, context.launch);
      w = context.weight_bf16;
    }
    context.cublaslt->gemm_bf16(context.x_bf16, w, y + first, m, rows, k, y_stride, accumulate, context.launch.stream);
  }
}

const char* reject_dequant_gemm(const LinearProblem& p) {
  if (p.k % 8 != 0) return "k is not a multiple of 8";
  if (!is_float(p.format) && p.k % 32 != 0) return "k is not a multiple of 32";
  return nullptr;
}
void launch_dequant_gemm(const LinearContext& context, const LinearArgs& args) {
  const auto tokens = static_cast<int>(args.tokens());
  to_bf16({args.x.row<float>(0), args.x.row_stride, args.row_indices, args.norm_weight, args.norm_epsilon, tokens,
           static_cast<int>(args.x.cols), context.x_bf16},
          context.launch);
  if (args.gated) {
    const LinearOutput &gate = args.outputs[0], &up = args.outputs[1];
    const int64_t n = gate.weight.rows;
    gemm_output(context, args, gate.weight, context.gate, n, false);
    gemm_output(context, args, up.weight, context.up, n, false);
    gated_activation({context.gate, context.up, gate.bias, up.bias, static_cast<float*>(gate.y.data), gate.y.row_stride,
                      tokens, static_cast<int>(n), args.activation},
                     context.launch);
    return;
  }
  for (const LinearOutput& output : args.outputs) {
    auto* y = static_cast<float*>(output.y.data);
    gemm_output(context, args, output.weight, y, output.y.row_stride, args.accumulate);
    if (output.bias)
      add_bias(y, output.y.row_stride, output.bias, tokens, static_cast<int>(output.weight.rows), context.launch);
  }
}

constexpr Candidate<LinearProblem, LinearLaunch> kLinear[] = {
    {"gemv_dp4a", reject_gemv_dp4a, launch_gemv_dp4a},
    {"gemv_rows", reject_gemv_rows, launch_gemv_rows},
    {"dequant_gemm_bf16", reject_dequant_gemm, launch_dequant_gemm},
};
constexpr KernelTable<LinearProblem, LinearLaunch> kLinearTable{"linear", kLinear};

bool one_layout(const LinearArgs& args) {
  for (const LinearOutput& output : args.outputs)
    if (output.weight.format != args.outputs[0].weight.format) return false;
  return true;
}

LinearProblem problem_of(const LinearContext& context, const LinearArgs& args, const LinearOutput& output) {
  return {args.role,        output.weight.format,
          args.tokens(),    output.weight.rows,
          args.x.cols,      context.launch.max_shared_bytes,
          context.switches, args.gated && !one_layout(args)};
}

}  // namespace

const KernelTable<LinearProblem, LinearLaunch>& linear_table() { return kLinearTable; }

void run_linear(const LinearContext& context, const LinearArgs& args, std::string_view forced) {
  if (args.tokens() == 0) return;
  if (args.gated || one_layout(args)) {
    const auto& entry = kLinearTable.select(problem_of(context, args, args.outputs[0]), forced);
    return entry.launch(context, args);
  }
  // Q4_K_M files store v in Q6_K in some layers: outputs of one format together, the others after them.
  LinearArgs part = args;
  for (size_t begin = 0; begin < args.outputs.size();) {
    size_t end = begin + 1;
    while (end < args.outputs.size() && args.outputs[end].weight.format == args.outputs[begin].weight.format) ++end;
    part.outputs = args.outputs.subspan(begin, end - begin);
    kLinearTable.select(problem_of(context, part, part.outputs[0]), forced).launch(context, part);
    begin = end;
  }
}

}  // namespace imp::cuda
