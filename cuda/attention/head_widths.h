#pragma once
#include <span>

#include "attention/decode_params.h"
#include "ops/args.h"
#include "runtime/launch.h"

namespace imp::cuda {

using DecodeKernel = void (*)(DecodeParams);

/// The kernels for one width of heads.
struct HeadWidth {
  int head_dim;
  void (*tiled)(const AttentionArgs& args, const LaunchContext& context);
  DecodeKernel (*decode)(int row_tiles, int warps);
  void (*wgmma)(const AttentionArgs& args, const LaunchContext& context) = nullptr;  // null: none
};

/// Every width that attention knows, the smallest first.
std::span<const HeadWidth> head_widths();
/// Null where there are no kernels.
const HeadWidth* head_width(int head_dim);

}  // namespace imp::cuda
