#include "linear/gemv.h"

#include <algorithm>

#include "core/error.h"

namespace imp::cuda {

// One a layout, each in a .cu of its own so that they compile side by side.
void gemv_dp4a_q8(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_q4k(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_q6k(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_q4k_q6k(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_groups(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_q4_0(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_q4_1(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_iq4nl(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_iq4xs(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_mxfp4(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_nvfp4(const GemvArgs& args, const LaunchContext& context);

void gemv_rows_f32(const GemvArgs& args, const LaunchContext& context);
void gemv_rows_f16(const GemvArgs& args, const LaunchContext& context);
void gemv_rows_bf16(const GemvArgs& args, const LaunchContext& context);

bool gemv_dp4a_mixes(PackedLayout a, PackedLayout b) {
  const auto [low, high] = std::minmax(a, b);
  return a == b || (low == PackedLayout::kQ4K && high == PackedLayout::kQ6K);
}

void gemv_dp4a(const PackedLayout* layouts, GemvArgs args, const LaunchContext& context) {
  if (args.tokens == 0) return;
  bool mixed = false;
  for (int i = 1; i < args.num_outputs; ++i) mixed = mixed || layouts[i] != layouts[0];
  if (mixed) {
    for (int i = 0; i < args.num_outputs; ++i) {
      if (!gemv_dp4a_mixes(layouts[0], layouts[i])) fail(ErrorCode::internal, "gemv_dp4a cannot mix these layouts");
      args.outputs[i].second_layout = layouts[i] == PackedLayout::kQ6K;
    }
    return gemv_dp4a_q4k_q6k(args, context);
  }
  switch (layouts[0]) {
    case PackedLayout::kQ8: return gemv_dp4a_q8(args, context);
    case PackedLayout::kQ4K: return gemv_dp4a_q4k(args, context);
    case PackedLayout::kQ6K: return gemv_dp4a_q6k(args, context);
    case PackedLayout::kGroups: return gemv_dp4a_groups(args, context);
    case PackedLayout::kQ4_0: return gemv_dp4a_q4_0(args, context);
    case PackedLayout::kQ4_1: return gemv_dp4a_q4_1(args, context);
    case PackedLayout::kIQ4NL: return gemv_dp4a_iq4nl(args, context);
    case PackedLayout::kIQ4XS: return gemv_dp4a_iq4xs(args, context);
    case PackedLayout::kMXFP4: return gemv_dp4a_mxfp4(args, context);
    case PackedLayout::kNVFP4: return gemv_dp4a_nvfp4(args, context);
    case PackedLayout::kRows: break;
  }
  fail(ErrorCode::internal, "gemv_dp4a has no integer codes to multiply in this layout");
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

}  // namespace imp::cuda
