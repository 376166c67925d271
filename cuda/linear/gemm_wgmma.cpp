#include "linear/gemm_wgmma.h"

#include <cuda_runtime.h>  // cudaLaunchKernelEx()

#include "core/error.h"
#include "linear/gemm_wgmma_kernels.h"
#include "runtime/tensor_map.h"

namespace imp::cuda {
namespace {

int divide_up(int a, int b) { return (a + b - 1) / b; }

/// 256 tokens a tile expand the weights half as often; 128 waste less where few tokens are left for the last tile.
int choose_tile_tokens(int tokens) {
  const int wide = divide_up(tokens, 256) * 256, narrow = divide_up(tokens, 128) * 128;
  return narrow * 115 <= wide * 100 ? 128 : 256;
}

WgmmaInstance instance_for(PackedLayout layout, int tile_tokens) {
  switch (layout) {
    case PackedLayout::kQ8: return wgmma_instance_q8(tile_tokens);
    case PackedLayout::kQ4K: return wgmma_instance_q4k(tile_tokens);
    case PackedLayout::kQ6K: return wgmma_instance_q6k(tile_tokens);
    case PackedLayout::kGroups: return wgmma_instance_groups(tile_tokens);
    case PackedLayout::kRows: break;
  }
  fail(ErrorCode::internal, "this layout has no wgmma kernel");
}

bool pairs_aligned(const WgmmaArgs& args) {
  const uintptr_t pair_bytes = args.bf16_out ? 4 : 8;
  for (int i = 0; i < args.num_outputs; ++i) {
    const WgmmaOutput& output = args.outputs[i];
    if (reinterpret_cast<uintptr_t>(output.y) % pair_bytes != 0 || output.y_stride % 2 != 0) return false;
  }
  return true;
}

}  // namespace

void gemm_wgmma(PackedLayout layout, const WgmmaArgs& args, const LaunchContext& context, int tile_tokens) {
  if (args.tokens == 0) return;
  if (tile_tokens == 0) tile_tokens = choose_tile_tokens(args.tokens);
  const int cols = args.outputs[0].weight.cols;
  WgmmaParams params = {};
  params.num_outputs = args.num_outputs;
  int row_tiles = 0;
  for (int i = 0; i < args.num_outputs; ++i) {
    params.outputs[i] = args.outputs[i];
    params.first_row_tile[i] = row_tiles;
    row_tiles += divide_up(args.outputs[i].weight.rows, 128);
  }
  if (args.gated) row_tiles = divide_up(args.outputs[0].weight.rows, 64);
  params.tokens = args.tokens;
  params.blocks_per_row = cols / 32;
  params.accumulate = args.accumulate;
  params.gated = args.gated;
  params.bf16_out = args.bf16_out;
  params.aligned_pairs = pairs_aligned(args);
  params.activation = args.activation;
  params.partial = args.partial;
  params.flags = args.flags;
  params.work = plan_wgmma_work(row_tiles, divide_up(args.tokens, tile_tokens), divide_up(cols, 64), context.num_sms,
                                args.partial != nullptr);
  const CUtensorMap x = make_tensor_map({args.x,
                                         true,
                                         {static_cast<uint64_t>(cols), static_cast<uint64_t>(args.tokens)},
                                         {static_cast<uint64_t>(args.x_stride) * 2},
                                         {64, static_cast<uint32_t>(tile_tokens)}});
  const WgmmaInstance instance = instance_for(layout, tile_tokens);
  launch(context, "gemm_wgmma", instance.kernel, static_cast<unsigned>(params.work.num_blocks),
         static_cast<unsigned>(instance.threads), static_cast<size_t>(instance.shared_bytes), params, x);
}

}  // namespace imp::cuda
