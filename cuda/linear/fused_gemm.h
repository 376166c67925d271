#pragma once
#include "linear/packed_weight.h"
#include "linear/tile_work.h"
#include "model/spec.h"

namespace imp::cuda {

// Products of many tokens that expand packed weights to bf16 on their way to the tensor cores: gemm_wgmma (sm_90a) and
// gemm_hmma (sm_80 and later) take the same arguments and share the work of a tile's beginning and end.

/// One product: y[t, n] (+)= sum_k x[t, k] * W[n, k] * scale + bias[n].
struct FusedOutput {
  PackedView weight;
  const float* bias;  // [rows] or null
  void* y;            // fp32 or bf16 (FusedGemmArgs::bf16_out)
  int64_t y_stride;   // elements
  float scale;
};

/// Up to 3 products of one x, or (gated) y_0 = activation(gate) * up of outputs 0 and 1. Weights of one layout, not
/// kRows.
struct FusedGemmArgs {
  const void* x;     // [tokens, k] bf16, aligned to 16 bytes
  int64_t x_stride;  // elements, a multiple of 8
  int tokens;
  FusedOutput outputs[3];
  int num_outputs;
  bool accumulate;  // y holds the residual; fp32 out only
  bool gated;
  bool bf16_out;
  Activation activation;
  float* partial;  // scratch of fused_partial_floats(), aligned to 16 bytes, or null: tiles are then never shared
  int32_t* flags;  // one a multiprocessor, zero before the first launch; every launch leaves them zero
};

constexpr int64_t fused_partial_floats(int num_sms) { return int64_t{num_sms} * 128 * 256; }

/// What the kernels take.
struct FusedGemmParams {
  FusedOutput outputs[3];
  TileWork work;
  int first_row_tile[3];  // of each output
  int num_outputs;
  int tokens, blocks_per_row;
  bool accumulate, gated, bf16_out, aligned_pairs;
  Activation activation;
  float* partial;
  int32_t* flags;
};

/// Tiles of `rows` rows of W (gated: half of them of the gate) by `tokens`, in steps of `k`.
struct FusedTile {
  int rows, tokens, k;
};
FusedGemmParams plan_fused_gemm(const FusedGemmArgs& args, const FusedTile& tile, int num_sms);

/// Wide tiles expand the weights half as often; narrow ones waste less where few tokens are left for the last tile.
inline bool narrow_tiles_do(int tokens, int wide) {
  const int narrow = wide / 2;
  return (tokens + narrow - 1) / narrow * narrow * 115 <= (tokens + wide - 1) / wide * wide * 100;
}

}  // namespace imp::cuda
