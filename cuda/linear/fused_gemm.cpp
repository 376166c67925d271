#include "linear/fused_gemm.h"

namespace imp::cuda {
namespace {

int divide_up(int a, int b) { return (a + b - 1) / b; }

bool pairs_aligned(const FusedGemmArgs& args) {
  const uintptr_t pair_bytes = args.bf16_out ? 4 : 8;
  for (int i = 0; i < args.num_outputs; ++i) {
    const FusedOutput& output = args.outputs[i];
    if (reinterpret_cast<uintptr_t>(output.y) % pair_bytes != 0 || output.y_stride % 2 != 0) return false;
  }
  return true;
}

}  // namespace

FusedGemmParams plan_fused_gemm(const FusedGemmArgs& args, const FusedTile& tile, int num_sms) {
  const int cols = args.outputs[0].weight.cols;
  FusedGemmParams params = {};
  params.num_outputs = args.num_outputs;
  int row_tiles = 0;
  for (int i = 0; i < args.num_outputs; ++i) {
    params.outputs[i] = args.outputs[i];
    params.first_row_tile[i] = row_tiles;
    row_tiles += divide_up(args.outputs[i].weight.rows, tile.rows);
  }
  if (args.gated) row_tiles = divide_up(args.outputs[0].weight.rows, tile.rows / 2);
  params.tokens = args.tokens;
  params.blocks_per_row = cols / 32;
  params.accumulate = args.accumulate;
  params.gated = args.gated;
  params.bf16_out = args.bf16_out;
  params.aligned_pairs = pairs_aligned(args);
  params.activation = args.activation;
  params.partial = args.partial;
  params.flags = args.flags;
  // Adding up what another block left costs about as much as 512 of k do.
  params.work = plan_tile_work(row_tiles, divide_up(args.tokens, tile.tokens), divide_up(cols, tile.k), num_sms,
                               args.partial != nullptr, 512 / tile.k);
  return params;
}

}  // namespace imp::cuda
