#include "linear/gemv.h"

#include <algorithm>

#include "core/error.h"

namespace imp::cuda {

// Each in a .cu of its own, so that they compile side by side.
using GemvLaunch = void(const GemvArgs& args, const LaunchContext& context);
GemvLaunch gemv_dp4a_q8, gemv_dp4a_q4k, gemv_dp4a_q6k, gemv_dp4a_q4_0, gemv_dp4a_q4_1, gemv_dp4a_iq4nl, gemv_dp4a_iq4xs,
    gemv_dp4a_mxfp4, gemv_dp4a_nvfp4, gemv_dp4a_q5k, gemv_dp4a_q5_0, gemv_dp4a_q5_1, gemv_dp4a_q3k, gemv_dp4a_q2k;
GemvLaunch gemv_dp4a_q4k_q6k, gemv_dp4a_q5k_q6k, gemv_dp4a_q3k_q4k, gemv_dp4a_q2k_q4k, gemv_dp4a_q5_0_q8;
GemvLaunch gemv_rows_f32, gemv_rows_f16, gemv_rows_bf16;

namespace {

/// Outputs of a layout, or of two in one launch: pairs that files have in q, k and v.
struct GemvKernel {
  PackedLayout first, second;
  int most_tokens;
  GemvLaunch* launch;
};
constexpr GemvKernel kKernels[] = {
    {PackedLayout::kQ8, PackedLayout::kQ8, kGemvMaxTokens, gemv_dp4a_q8},
    {PackedLayout::kQ4K, PackedLayout::kQ4K, kGemvMaxTokens, gemv_dp4a_q4k},
    {PackedLayout::kQ6K, PackedLayout::kQ6K, kGemvMaxTokens, gemv_dp4a_q6k},
    {PackedLayout::kQ4_0, PackedLayout::kQ4_0, kGemvMaxTokens, gemv_dp4a_q4_0},
    {PackedLayout::kQ4_1, PackedLayout::kQ4_1, kGemvMaxTokens, gemv_dp4a_q4_1},
    {PackedLayout::kIQ4NL, PackedLayout::kIQ4NL, kGemvMaxTokens, gemv_dp4a_iq4nl},
    {PackedLayout::kIQ4XS, PackedLayout::kIQ4XS, kGemvMaxTokens, gemv_dp4a_iq4xs},
    {PackedLayout::kMXFP4, PackedLayout::kMXFP4, kGemvMaxTokens, gemv_dp4a_mxfp4},
    {PackedLayout::kNVFP4, PackedLayout::kNVFP4, kGemvMaxTokens, gemv_dp4a_nvfp4},
    {PackedLayout::kQ5K, PackedLayout::kQ5K, kGemvMaxTokens, gemv_dp4a_q5k},
    {PackedLayout::kQ5_0, PackedLayout::kQ5_0, kGemvMaxTokens, gemv_dp4a_q5_0},
    {PackedLayout::kQ5_1, PackedLayout::kQ5_1, kGemvMaxTokens, gemv_dp4a_q5_1},
    {PackedLayout::kQ3K, PackedLayout::kQ3K, kGemvMaxTokens, gemv_dp4a_q3k},
    {PackedLayout::kQ2K, PackedLayout::kQ2K, kGemvMaxTokens, gemv_dp4a_q2k},
    {PackedLayout::kQ4K, PackedLayout::kQ6K, kGemvMaxTokens, gemv_dp4a_q4k_q6k},  // Q4_K_M
    {PackedLayout::kQ5K, PackedLayout::kQ6K, kGemvMaxTokens, gemv_dp4a_q5k_q6k},  // Q5_K_M
    {PackedLayout::kQ3K, PackedLayout::kQ4K, 1, gemv_dp4a_q3k_q4k},               // Q3_K_M
    {PackedLayout::kQ2K, PackedLayout::kQ4K, 1, gemv_dp4a_q2k_q4k},               // Q2_K
    {PackedLayout::kQ5_0, PackedLayout::kQ8, 1, gemv_dp4a_q5_0_q8},  // Q4_K_M where rows are no multiple of 256
};

const GemvKernel* kernel_of(PackedLayout a, PackedLayout b) {
  for (const GemvKernel& kernel : kKernels)
    if ((kernel.first == a && kernel.second == b) || (kernel.first == b && kernel.second == a)) return &kernel;
  return nullptr;
}

struct RowsKernel {
  WeightFormat format;
  GemvLaunch* launch;
};
constexpr RowsKernel kRowsKernels[] = {
    {WeightFormat::f32, gemv_rows_f32}, {WeightFormat::f16, gemv_rows_f16}, {WeightFormat::bf16, gemv_rows_bf16}};

}  // namespace

bool gemv_dp4a_mixes(PackedLayout a, PackedLayout b) { return kernel_of(a, b) != nullptr; }

void gemv_dp4a(const PackedLayout* layouts, GemvArgs args, const LaunchContext& context) {
  if (args.tokens == 0) return;
  const PackedLayout* end = layouts + args.num_outputs;
  const auto end_of_run = [&](const PackedLayout* from) {
    return std::find_if(from, end, [&](PackedLayout layout) { return layout != *from; });
  };
  const PackedLayout* other = end_of_run(layouts);
  const GemvKernel* kernel = kernel_of(layouts[0], other == end ? layouts[0] : *other);
  if (!kernel || std::any_of(other, end, [&](PackedLayout l) { return l != kernel->first && l != kernel->second; }))
    fail(ErrorCode::internal, "gemv_dp4a has no kernel for these layouts together");
  if (args.tokens <= kernel->most_tokens) {
    for (int i = 0; i < args.num_outputs; ++i) args.outputs[i].second_layout = layouts[i] != kernel->first;
    return kernel->launch(args, context);
  }
  for (const PackedLayout* at = layouts; at != end;) {
    const PackedLayout* next = end_of_run(at);
    GemvArgs part = args;
    std::copy(args.outputs + (at - layouts), args.outputs + (next - layouts), part.outputs);
    part.num_outputs = static_cast<int>(next - at);
    gemv_dp4a(at, part, context);
    at = next;
  }
}

void gemv_rows(WeightFormat format, const GemvArgs& args, const LaunchContext& context) {
  if (args.tokens == 0) return;
  const auto kernel = std::ranges::find(kRowsKernels, format, &RowsKernel::format);
  if (kernel == std::end(kRowsKernels)) fail(ErrorCode::internal, "gemv_rows has no kernel for ", info(format).name);
  kernel->launch(args, context);
}

GemvArgs gemv_args(const LinearArgs& args) {
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
  gemv.after_other = args.role == LinearRole::o;  // attention
  return gemv;
}

}  // namespace imp::cuda
