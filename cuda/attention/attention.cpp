#include "attention/attention.h"

#include <algorithm>

#include "attention/head_widths.h"
#include "core/error.h"

namespace imp::cuda {

// Each in a .cu of its own, so that they compile side by side.
using PrefillLaunch = void(const AttentionArgs& args, const LaunchContext& context);
using DecodeChoice = DecodeKernel(int row_tiles, int warps);
PrefillLaunch attention_tiled_hd16, attention_tiled_hd32, attention_tiled_hd64, attention_tiled_hd80,
    attention_tiled_hd96, attention_tiled_hd128, attention_tiled_hd256;
DecodeChoice decode_kernel_hd16, decode_kernel_hd32, decode_kernel_hd64, decode_kernel_hd80, decode_kernel_hd96,
    decode_kernel_hd128, decode_kernel_hd256;
PrefillLaunch attention_wgmma_hd64, attention_wgmma_hd128, attention_wgmma_hd256;

namespace {

constexpr HeadWidth kHeadWidths[] = {
    {16, attention_tiled_hd16, decode_kernel_hd16},
    {32, attention_tiled_hd32, decode_kernel_hd32},
    {64, attention_tiled_hd64, decode_kernel_hd64, attention_wgmma_hd64},
    {80, attention_tiled_hd80, decode_kernel_hd80},
    {96, attention_tiled_hd96, decode_kernel_hd96},
    {128, attention_tiled_hd128, decode_kernel_hd128, attention_wgmma_hd128},
    {256, attention_tiled_hd256, decode_kernel_hd256, attention_wgmma_hd256},
};

}  // namespace

std::span<const HeadWidth> head_widths() { return kHeadWidths; }

const HeadWidth* head_width(int head_dim) {
  const auto found = std::ranges::find(kHeadWidths, head_dim, &HeadWidth::head_dim);
  return found == std::end(kHeadWidths) ? nullptr : found;
}

void attention_tiled(const AttentionArgs& args, const LaunchContext& context) {
  if (args.q.rows == 0) return;
  const HeadWidth* width = head_width(args.cache.head_dim);
  if (!width) fail(ErrorCode::unsupported, "no attention kernel for head_dim ", args.cache.head_dim);
  width->tiled(args, context);
}

void attention_wgmma(const AttentionArgs& args, const LaunchContext& context) {
  if (args.q.rows == 0) return;
  const HeadWidth* width = head_width(args.cache.head_dim);
  if (!width || !width->wgmma)
    fail(ErrorCode::unsupported, "no wgmma attention kernel for head_dim ", args.cache.head_dim);
  width->wgmma(args, context);
}

}  // namespace imp::cuda
