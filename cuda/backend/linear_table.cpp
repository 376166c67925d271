// Which kernel a linear gets; the table is kLinear, best first. By the number of tokens, where no key asks otherwise:
//
//   1 and 2     gemv_dp4a           the weights' integers times int8 activations; up to 8 where the next do not run
//   1 to 8      gemv_rows           rows of f32, f16 or bf16
//   3 to 16     gemv_mma            int8 tensor cores, for one or two tiles of tokens; Q8_0, Q4_K, Q6_K; from sm_90 on
//   3 to 64     gemm_imma           the same for every block format; up to 128 where gemm_wgmma does not run
//   65 to 512   gemm_wgmma          weights expanded to bf16 on the way to the tensor cores; sm_90
//   any other   dequant_gemm_bf16   weights expanded into memory a slice at a time, and cuBLASLt
//
// Where the memory plan has room for copies of the weights in bf16, gemm_stream (sm_90, up to 128 tokens) and
// cublaslt_bf16 take over from 33 tokens on, for some formats from 17.
#include <algorithm>
#include <array>
#include <numeric>
#include <span>

#include "backend/bf16_gemm.h"
#include "backend/dequant_gemm.h"
#include "backend/f16_gemm.h"
#include "backend/fp8_gemm.h"
#include "backend/fused_linear.h"
#include "backend/linear_ops.h"
#include "config/config.h"
#include "linear/gemv.h"
#include "linear/gemv_mma.h"

namespace imp::cuda {
namespace {

bool is_float(WeightFormat format) {
  return format == WeightFormat::f32 || format == WeightFormat::f16 || format == WeightFormat::bf16;
}

PackedLayout layout_of(const LinearOutput& output) { return static_cast<PackedLayout>(output.weight.layout); }
std::array<PackedLayout, 3> layouts_of(const LinearArgs& args) {
  std::array<PackedLayout, 3> layouts = {};
  std::ranges::transform(args.outputs, layouts.begin(), layout_of);
  return layouts;
}

/// The switches of every kernel that multiplies the weights' integers as they are.
const char* reject_integers(const LinearProblem& p) {
  if (p.switches.no_mmvq) return "gemm.no_mmvq is set";
  if (p.switches.no_dp4a_gemv && p.m <= kGemvMaxTokens) return "gemm.no_dp4a_gemv is set";
  if (p.switches.no_dp4a_lm && p.role == LinearRole::lm_head) return "gemm.no_dp4a_lm is set";
  if (p.switches.no_mmvq_q8_0 && p.format == WeightFormat::q8_0) return "gemm.no_mmvq_q8_0 is set";
  return nullptr;
}

/// Steps of prompts are not started ahead like those that decode: another GEMV's blocks may be on their way out when
/// this one's come, and two of them land where one multiprocessor is free first (gemv_plan.cpp).
GemvArgs gemv_args_in(const LinearContext& context, const LinearArgs& args) {
  GemvArgs gemv = gemv_args(args);
  gemv.after_other = gemv.after_other || context.prompt;
  return gemv;
}

const char* reject_gemv_dp4a(const LinearProblem& p) {
  if (is_float(p.format)) return "weight is not a block format";
  if (p.bf16_activations) return "activations are bf16";
  if (p.mixed) return "gate and up are stored in different formats";
  if (p.m > kGemvMaxTokens) return "more than 8 tokens";
  if (p.k % 32 != 0) return "k is not a multiple of 32";
  if (gemv_dp4a_shared_bytes(static_cast<int>(p.k), static_cast<int>(p.m)) > p.max_shared_bytes)
    return "activations do not fit into shared memory";
  return reject_integers(p);
}
void launch_gemv_dp4a(const LinearContext& context, const LinearArgs& args) {
  gemv_dp4a(layouts_of(args).data(), gemv_args_in(context, args), context.launch);
}

const char* reject_gemv_rows(const LinearProblem& p) {
  if (!is_float(p.format)) return "weight is a block format";
  if (p.bf16_activations) return "activations are bf16";
  if (p.mixed) return "gate and up are stored in different formats";
  if (p.m > kGemvMaxTokens) return "more than 8 tokens";
  if (p.k % 8 != 0) return "k is not a multiple of 8";
  if (gemv_rows_shared_bytes(p.format, static_cast<int>(p.k), static_cast<int>(p.m)) > p.max_shared_bytes)
    return "activations do not fit into shared memory";
  return nullptr;
}
void launch_gemv_rows(const LinearContext& context, const LinearArgs& args) {
  gemv_rows(args.outputs[0].weight.format, gemv_args_in(context, args), context.launch);
}

// Measured beside the GEMV, and beside expanding the weights to bf16 (docs/performance.md).
constexpr int64_t kImmaFewestTokens = 3, kImmaSmallTokens = 64, kImmaMostTokens = 128, kImmaLongRow = 4096;
constexpr int64_t kImmaCheapTokens = 16;    // formats that take more to expand stop here beside a bf16 copy
constexpr int64_t kImmaPrefillTokens = 64;  // from here on gemm.q8_imma_enabled decides for Q8_0

const char* reject_gemm_imma(const LinearProblem& p) {
  if (is_float(p.format)) return "weight is not a block format";
  if (p.capability < 90) return "its bulk copies exist from sm_90 on";
  if (p.mixed) return "gate and up are stored in different formats";
  if (p.k % 32 != 0) return "k is not a multiple of 32";
  if (p.m < kImmaFewestTokens) return "fewer than 3 tokens";
  const bool asked_for = p.format == WeightFormat::q4_k && p.switches.q4k_imma_prefill;
  if (p.bf16_copy && !asked_for) {
    if (p.m >= kBf16CopyTokens) return "products of a bf16 copy are faster from 33 tokens on";
    if (p.m > kImmaCheapTokens && !imma_is_cheap(packed_layout_of(p.format)))
      return "products of a bf16 copy are faster from 17 tokens on in this format";
  }
  if (p.m > kImmaMostTokens && !asked_for) return "more than 128 tokens";
  const bool cheap = p.k >= kImmaLongRow && p.format == WeightFormat::q8_0;
  if (p.m > kImmaSmallTokens && !cheap && !asked_for) return "more than 64 tokens, and not Q8_0 with k of 4096 or more";
  if (p.m > kImmaMaxTokens) return "more than 256 tokens";
  if (p.m > kImmaSmallTokens && !asked_for && p.capability == 90) return "more than 64 tokens, and gemm_wgmma exists";
  if (p.m >= kHmmaFewestTokens && p.format == WeightFormat::q4_k && p.switches.q4k_hmma && !asked_for)
    return "gemm.q4k_hmma_enabled is set";
  if (p.m >= kImmaPrefillTokens && p.format == WeightFormat::q8_0 && !p.switches.q8_imma)
    return "gemm.q8_imma_enabled is off";
  if (const char* reason = reject_integers(p)) return reason;
  return imma_reject(packed_layout_of(p.format), p.m, p.max_shared_bytes);
}
void launch_gemm_imma(const LinearContext& context, const LinearArgs& args) {
  gemm_imma(layout_of(args.outputs[0]), args, context.imma, context.launch);
}

// From here on it is faster than the GEMV of dot products (docs/performance.md).
constexpr int64_t kGemvMmaFewestTokens = 3;

const char* reject_gemv_mma(const LinearProblem& p) {
  if (is_float(p.format)) return "weight is not a block format";
  if (p.capability < 90) return "its barriers exist from sm_90 on";
  if (p.bf16_activations) return "activations are bf16";
  if (p.mixed) return "gate and up are stored in different formats";
  if (p.m < kGemvMmaFewestTokens) return "fewer than 3 tokens";
  if (const char* reason = reject_integers(p)) return reason;
  return gemv_mma_reject(packed_layout_of(p.format), p.m, p.k, p.max_shared_bytes);
}
void launch_gemv_mma(const LinearContext& context, const LinearArgs& args) {
  gemv_mma(layouts_of(args).data(), args, context.imma, context.launch);
}

/// Of products that expand each weight by itself.
bool mixes_all(PackedLayout, PackedLayout) { return true; }

constexpr Candidate<LinearProblem, LinearKernel> kLinear[] = {
    {"gemv_mma", reject_gemv_mma, {launch_gemv_mma, gemv_mma_mixes}},
    {"gemm_imma", reject_gemm_imma, {launch_gemm_imma}},
    {"gemm_hmma", reject_gemm_hmma, {launch_gemm_hmma}},
    {"gemv_dp4a", reject_gemv_dp4a, {launch_gemv_dp4a, gemv_dp4a_mixes}},
    {"gemv_rows", reject_gemv_rows, {launch_gemv_rows}},
    {"cublaslt_fp8", reject_fp8_gemm, {launch_fp8_gemm, mixes_all}},
    {"gemm_stream", reject_stream_gemm, {launch_stream_gemm, mixes_all}},
    {"cublaslt_bf16", reject_bf16_gemm, {launch_bf16_gemm, mixes_all}},
    {"dequant_gemm_f16", reject_f16_gemm, {launch_f16_gemm, mixes_all}},
    {"gemm_wgmma", reject_gemm_wgmma, {launch_gemm_wgmma, mixes_all}},
    {"dequant_gemm_bf16", reject_dequant_gemm, {launch_dequant_gemm, mixes_all}},
};
constexpr KernelTable<LinearProblem, LinearKernel> kLinearTable{"linear", kLinear};

bool one_format(std::span<const LinearOutput> outputs) {
  return std::ranges::all_of(outputs,
                             [&](const LinearOutput& o) { return o.weight.format == outputs[0].weight.format; });
}

bool mixes(const LinearKernel& kernel, std::span<const LinearOutput> outputs) {
  return kernel.mixes && std::ranges::all_of(outputs, [&](const LinearOutput& a) {
           return std::ranges::all_of(outputs,
                                      [&](const LinearOutput& b) { return kernel.mixes(layout_of(a), layout_of(b)); });
         });
}

bool has_copies(const LinearContext& context, const LinearArgs& args) {
  return context.bf16 && std::ranges::all_of(args.outputs, [&](const LinearOutput& output) {
           return context.bf16->find(output.weight) != nullptr;
         });
}

LinearProblem problem_of(const LinearContext& context, const LinearArgs& args, const LinearOutput& output) {
  return {.role = args.role,
          .format = output.weight.format,
          .m = args.tokens(),
          .n = output.weight.rows,
          .k = args.x.cols,
          .max_shared_bytes = context.launch.max_shared_bytes,
          .switches = context.switches,
          .mixed = args.gated && !one_format(args.outputs),
          .bf16_activations = args.x.dtype == DType::bf16 || args.outputs[0].y.dtype == DType::bf16,
          .fp8 = context.fp8 != nullptr,
          .bf16_copy = has_copies(context, args),
          .scaled = std::ranges::any_of(args.outputs, [](const LinearOutput& o) { return o.weight.scale != 1; }),
          .capability = context.capability,
          .gated = args.gated,
          .rows = std::accumulate(args.outputs.begin(), args.outputs.end(), int64_t{0},
                                  [](int64_t sum, const LinearOutput& o) { return sum + o.weight.rows; }),
          .num_sms = context.launch.num_sms};
}

}  // namespace

LinearSwitches linear_switches(const Settings& settings) {
  return {.no_dp4a_gemv = settings.gemm.no_dp4a_gemv,
          .no_dp4a_lm = settings.gemm.no_dp4a_lm,
          .no_mmvq = settings.gemm.no_mmvq,
          .no_mmvq_q8_0 = settings.gemm.no_mmvq_q8_0,
          .f16_sums = settings.gemm.cublas_fp16_acc == "on",
          .q8_imma = settings.gemm.q8_imma_enabled,
          .q4k_imma_prefill = settings.gemm.q4k_imma_prefill,
          .q4k_hmma = settings.gemm.q4k_hmma_enabled};
}

const KernelTable<LinearProblem, LinearKernel>& linear_table() { return kLinearTable; }

void run_linear(const LinearContext& context, const LinearArgs& args, std::string_view forced) {
  if (args.tokens() == 0) return;
  const auto candidate_of = [&](const LinearArgs& linear, const LinearOutput& output) -> const auto& {
    return kLinearTable.select(problem_of(context, linear, output), forced);
  };
  const auto& first = candidate_of(args, args.outputs[0]);
  const bool together =
      args.gated || one_format(args.outputs) ||
      (mixes(first.launch, args.outputs) &&
       std::ranges::all_of(args.outputs, [&](const auto& output) { return &candidate_of(args, output) == &first; }));
  if (together) return first.launch.run(context, args);
  LinearArgs part = args;
  for (size_t begin = 0, end; begin < args.outputs.size(); begin = end) {
    for (end = begin + 1; end < args.outputs.size() && one_format(args.outputs.subspan(begin, end + 1 - begin));) ++end;
    part.outputs = args.outputs.subspan(begin, end - begin);
    candidate_of(part, part.outputs[0]).launch.run(context, part);
  }
}

}  // namespace imp::cuda
