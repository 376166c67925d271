#include "backend/fused_linear.h"

#include "backend/dequant_gemm.h"
#include "linear/gemm_hmma.h"
#include "linear/gemm_wgmma.h"

namespace imp::cuda {
namespace {

/// Beyond, expanding the weights once for all tokens and multiplying with cuBLASLt is faster (docs/performance.md).
/// Gate and up save the activation's pass over memory besides.
constexpr int64_t kWgmmaMostTokens = 256, kWgmmaMostTokensGated = 512;

FusedGemmArgs fused_args(const LinearContext& context, const LinearArgs& args, const void* x,
                         std::span<const LinearOutput> outputs) {
  FusedGemmArgs gemm = {};
  gemm.x = x;
  gemm.x_stride = args.x.cols;
  gemm.tokens = static_cast<int>(args.tokens());
  for (const LinearOutput& output : outputs)
    gemm.outputs[gemm.num_outputs++] = {packed_view(output.weight), output.bias, output.y.data, output.y.row_stride,
                                        output.weight.scale};
  gemm.accumulate = args.accumulate;
  gemm.gated = args.gated;
  gemm.bf16_out = outputs[0].y.dtype == DType::bf16;
  gemm.activation = args.activation;
  // Sums and counters of blocks that share tiles: like gemm_imma's, the latter zero between launches.
  const ImmaScratch& scratch = context.imma;
  const int num_sms = context.launch.num_sms;
  if (fused_partial_floats(num_sms) * 4 <= scratch.partial_bytes && num_sms <= scratch.num_counters)
    gemm.partial = scratch.partial, gemm.flags = scratch.counters;
  return gemm;
}

}  // namespace

const char* reject_gemm_hmma(const LinearProblem& p) {
  if (p.format != WeightFormat::q4_k) return "weight is not Q4_K";
  if (!p.switches.q4k_hmma) return "gemm.q4k_hmma_enabled is off";
  if (p.m < kHmmaFewestTokens) return "fewer than 32 tokens";
  if (p.mixed) return "gate and up are stored in different formats";
  if (p.capability < 80) return "bf16 tensor cores exist from sm_80 on";
  if (p.max_shared_bytes < kHmmaSharedBytes) return "tiles do not fit into shared memory";
  return nullptr;
}

void launch_gemm_hmma(const LinearContext& context, const LinearArgs& args) {
  gemm_hmma_q4k(fused_args(context, args, inputs_as_bf16(context, args), args.outputs), context.launch);
}

const char* reject_gemm_wgmma(const LinearProblem& p) {
  if (p.capability != 90) return "wgmma exists on sm_90 alone";
  if (const char* reason = wgmma_reject(packed_layout_of(p.format))) return reason;
  if (p.mixed) return "gate and up are stored in different formats";
  if (p.k % 32 != 0) return "k is not a multiple of 32";
  if (p.m > kWgmmaMostTokensGated) return "more than 512 tokens";
  if (p.m > kWgmmaMostTokens && !p.gated) return "more than 256 tokens, and not gate and up";
  return nullptr;
}

void launch_gemm_wgmma(const LinearContext& context, const LinearArgs& args) {
  const void* x = inputs_as_bf16(context, args);
  const auto layout = [&](size_t i) { return static_cast<PackedLayout>(args.outputs[i].weight.layout); };
  for (size_t begin = 0, end; begin < args.outputs.size(); begin = end) {
    for (end = begin + 1; end < args.outputs.size() && layout(end) == layout(begin);) ++end;
    gemm_wgmma(layout(begin), fused_args(context, args, x, args.outputs.subspan(begin, end - begin)), context.launch);
  }
}

}  // namespace imp::cuda
