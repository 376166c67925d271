#include "linear/gemv.h"

#include <algorithm>

#include "core/error.h"

namespace imp::cuda {

// One a layout, each in a .cu of its own so that they compile side by side.
void gemv_dp4a_q8(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_q4k(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_q6k(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_q4k_q6k(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_q4_0(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_q4_1(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_iq4nl(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_iq4xs(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_mxfp4(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_nvfp4(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_q5k(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_q5k_q6k(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_q3k_q4k(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_q2k_q4k(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_q5_0_q8(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_q5_0(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_q5_1(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_q3k(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_q2k(const GemvArgs& args, const LaunchContext& context);

void gemv_rows_f32(const GemvArgs& args, const LaunchContext& context);
void gemv_rows_f16(const GemvArgs& args, const LaunchContext& context);
void gemv_rows_bf16(const GemvArgs& args, const LaunchContext& context);

namespace {

/// Two layouts in one launch: pairs that files have in q, k and v.
struct Mix {
  PackedLayout first, second;
  int most_tokens;
  void (*launch)(const GemvArgs& args, const LaunchContext& context);
};
constexpr Mix kMixes[] = {
    {PackedLayout::kQ4K, PackedLayout::kQ6K, kGemvMaxTokens, gemv_dp4a_q4k_q6k},  // Q4_K_M
    {PackedLayout::kQ5K, PackedLayout::kQ6K, kGemvMaxTokens, gemv_dp4a_q5k_q6k},  // Q5_K_M
    {PackedLayout::kQ3K, PackedLayout::kQ4K, 1, gemv_dp4a_q3k_q4k},               // Q3_K_M
    {PackedLayout::kQ2K, PackedLayout::kQ4K, 1, gemv_dp4a_q2k_q4k},               // Q2_K
    {PackedLayout::kQ5_0, PackedLayout::kQ8, 1, gemv_dp4a_q5_0_q8},  // Q4_K_M where rows are no multiple of 256
};

const Mix* mix_of(PackedLayout a, PackedLayout b) {
  for (const Mix& mix : kMixes)
    if ((mix.first == a && mix.second == b) || (mix.first == b && mix.second == a)) return &mix;
  return nullptr;
}

/// Outputs of one layout.
void launch_layout(PackedLayout layout, const GemvArgs& args, const LaunchContext& context) {
  switch (layout) {
    case PackedLayout::kQ8: return gemv_dp4a_q8(args, context);
    case PackedLayout::kQ4K: return gemv_dp4a_q4k(args, context);
    case PackedLayout::kQ6K: return gemv_dp4a_q6k(args, context);
    case PackedLayout::kQ4_0: return gemv_dp4a_q4_0(args, context);
    case PackedLayout::kQ4_1: return gemv_dp4a_q4_1(args, context);
    case PackedLayout::kIQ4NL: return gemv_dp4a_iq4nl(args, context);
    case PackedLayout::kIQ4XS: return gemv_dp4a_iq4xs(args, context);
    case PackedLayout::kMXFP4: return gemv_dp4a_mxfp4(args, context);
    case PackedLayout::kNVFP4: return gemv_dp4a_nvfp4(args, context);
    case PackedLayout::kQ5K: return gemv_dp4a_q5k(args, context);
    case PackedLayout::kQ5_0: return gemv_dp4a_q5_0(args, context);
    case PackedLayout::kQ5_1: return gemv_dp4a_q5_1(args, context);
    case PackedLayout::kQ3K: return gemv_dp4a_q3k(args, context);
    case PackedLayout::kQ2K: return gemv_dp4a_q2k(args, context);
    case PackedLayout::kRows: break;
  }
  fail(ErrorCode::internal, "gemv_dp4a has no integer codes to multiply in this layout");
}

}  // namespace

bool gemv_dp4a_mixes(PackedLayout a, PackedLayout b) { return a == b || mix_of(a, b); }

void gemv_dp4a(const PackedLayout* layouts, GemvArgs args, const LaunchContext& context) {
  if (args.tokens == 0) return;
  const PackedLayout* end = layouts + args.num_outputs;
  const auto first_other = [&](const PackedLayout* from) {
    return std::find_if(from, end, [&](PackedLayout layout) { return layout != *from; });
  };
  const PackedLayout* other = first_other(layouts);
  if (other == end) return launch_layout(layouts[0], args, context);
  const Mix* mix = mix_of(layouts[0], *other);
  if (!mix || std::any_of(other, end, [&](PackedLayout l) { return l != mix->first && l != mix->second; }))
    fail(ErrorCode::internal, "gemv_dp4a cannot mix these layouts");
  if (args.tokens <= mix->most_tokens) {
    for (int i = 0; i < args.num_outputs; ++i) args.outputs[i].second_layout = layouts[i] == mix->second;
    return mix->launch(args, context);
  }
  for (const PackedLayout* at = layouts; at != end;) {  // one launch a run of equal layouts
    const PackedLayout* next = first_other(at);
    GemvArgs part = args;
    std::copy(args.outputs + (at - layouts), args.outputs + (next - layouts), part.outputs);
    part.num_outputs = static_cast<int>(next - at);
    launch_layout(*at, part, context);
    at = next;
  }
}

void gemv_rows(WeightFormat format, const GemvArgs& args, const LaunchContext& context) {
  if (args.tokens == 0) return;
  switch (format) {
    case WeightFormat::f32: return gemv_rows_f32(args, context);
    case WeightFormat::f16: return gemv_rows_f16(args, context);
    case WeightFormat::bf16: return gemv_rows_bf16(args, context);
    default: fail(ErrorCode::internal, "gemv_rows takes float formats");
  }
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
