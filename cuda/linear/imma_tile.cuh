#pragma once
// A tile of gemm_imma (gemm_imma.cuh): its shape, its shared memory, which rows it has, and where its sums go.
#include <cuda_bf16.h>

#include <algorithm>

#include "device/activation.cuh"
#include "linear/packed_weight.h"
#include "linear/token_codes.h"
#include "model/spec.h"

namespace imp::cuda {

struct ImmaOutput {
  PackedView weight;
  const float* bias;
  void* y;
  int64_t y_stride;
  float scale;
};

struct ImmaArgs {
  ImmaOutput outputs[3];
  int num_outputs;
  bool accumulate, gated, y_bf16;
  Activation activation;
  const uint8_t* codes;
  int tokens, token_tiles, row_tiles, splits, slabs, stages;
  float* partial;
  int32_t* counters;
};

inline constexpr int kImmaCopyThreads = 128;

template <int kRowMmas_, int kTokenMmas_, int kWarpsRows_, int kWarpsTokens_, int kWarpsK_, int kBlocks_>
struct ImmaTile {
  static constexpr int kRowMmas = kRowMmas_, kTokenMmas = kTokenMmas_;  // of a warp
  static constexpr int kWarpsRows = kWarpsRows_, kWarpsTokens = kWarpsTokens_, kWarpsK = kWarpsK_;
  static constexpr int kBlocks = kBlocks_;
  static constexpr int kRows = 16 * kRowMmas * kWarpsRows, kTokens = 8 * kTokenMmas * kWarpsTokens;
  static constexpr int kWarps = kWarpsRows * kWarpsTokens * kWarpsK;  // that multiply
  static constexpr int kThreads = kWarps * 32 + kImmaCopyThreads;
  static constexpr int kBlocksOfWarp = kBlocks / kWarpsK;
  static constexpr int kFragments = kWarpsRows * kWarpsTokens * kRowMmas * kTokenMmas;  // 16 x 8 pieces of a tile
  static constexpr int kRegisters = kWarps == 8 ? 224 : 104;  // of a multiplying thread; a copying one has 56
  static_assert(kWarps == 8 || kWarps == 16);
  static_assert(kBlocks % kWarpsK == 0 && 32 % kBlocks == 0 && kBlocks >= 8);
};

inline constexpr int kImmaMaxStages = 8, kImmaHeader = 256;

/// Bytes of shared memory, part by part.
template <class Format, class Tile>
struct ImmaShared {
  static constexpr int kWeights = Tile::kRows * (Format::kCodeRow + Format::kScaleRow + Format::kSuperRow);
  static constexpr int kTokenCodes = TokenCodes::code_bytes(Tile::kTokens, Tile::kBlocks);
  static constexpr int kTokens = kTokenCodes + Format::kPlanes * Tile::kBlocks * Tile::kTokens * 4;
  static constexpr int kSums = Tile::kWarpsK > 1 ? Tile::kWarpsK* Tile::kRows* Tile::kTokens * 4 : 0;
  static constexpr int kStage = kWeights + kTokens, kFixed = kImmaHeader + kSums;
  static int stages(int64_t max_shared) {
    return static_cast<int>(std::min<int64_t>(kImmaMaxStages, (max_shared - kFixed) / kStage));
  }
};

/// A row of a tile: which output, and which of its rows.
struct ImmaRow {
  int output, row;
};

template <class Tile>
struct ImmaRows {
  int output, first;
  bool gated;
  __device__ ImmaRows(const ImmaArgs& args, int tile) : output(0), first(tile * Tile::kRows), gated(args.gated) {
    if (gated) {
      first /= 2;
      return;
    }
    while (output + 1 < args.num_outputs) {
      const int rows = (args.outputs[output].weight.rows + Tile::kRows - 1) / Tile::kRows * Tile::kRows;
      if (first < rows) return;
      first -= rows;
      ++output;
    }
  }
  /// Gated: 8 rows of the gate, then the same 8 of the up, so that one thread gets both.
  __device__ ImmaRow at(int local) const {
    if (gated) return {local / 8 % 2, first + local / 16 * 8 + local % 8};
    return {output, first + local};
  }
};

__device__ __forceinline__ void imma_store(const ImmaArgs& args, const ImmaRow& at, int token, float value) {
  const ImmaOutput& out = args.outputs[at.output];
  if (token >= args.tokens || at.row >= out.weight.rows) return;
  float* y = static_cast<float*>(out.y) + token * out.y_stride + at.row;
  value = value * out.scale + (out.bias ? out.bias[at.row] : 0);
  *y = args.accumulate ? *y + value : value;
}
__device__ __forceinline__ void imma_store_gated(const ImmaArgs& args, int row, int token, float g, float u) {
  const ImmaOutput &gate = args.outputs[0], &up = args.outputs[1];
  if (token >= args.tokens || row >= gate.weight.rows) return;
  g = g * gate.scale + (gate.bias ? gate.bias[row] : 0);
  u = u * up.scale + (up.bias ? up.bias[row] : 0);
  const float value = activate_device(args.activation, g) * u;
  const int64_t i = token * gate.y_stride + row;
  if (args.y_bf16) {
    static_cast<__nv_bfloat16*>(gate.y)[i] = __float2bfloat16(value);
  } else {
    static_cast<float*>(gate.y)[i] = value;
  }
}

/// The sums that a lane has of fragment `fragment` (16 rows x 8 tokens), to the outputs.
template <class Tile>
__device__ __forceinline__ void imma_finish(const ImmaArgs& args, const ImmaRows<Tile>& rows, int token_tile,
                                            int fragment, const float4& v) {
  const int lane = threadIdx.x % 32;
  const int token_mma = fragment % Tile::kTokenMmas, row_mma = fragment / Tile::kTokenMmas % Tile::kRowMmas;
  const int warp = fragment / (Tile::kTokenMmas * Tile::kRowMmas);
  const int local = (warp / Tile::kWarpsTokens * Tile::kRowMmas + row_mma) * 16 + lane / 4;
  const int token =
      token_tile * Tile::kTokens + (warp % Tile::kWarpsTokens * Tile::kTokenMmas + token_mma) * 8 + lane % 4 * 2;
  if (args.gated) {
    const int row = rows.at(local).row;
    imma_store_gated(args, row, token, v.x, v.z);
    imma_store_gated(args, row, token + 1, v.y, v.w);
  } else {
    imma_store(args, rows.at(local), token, v.x);
    imma_store(args, rows.at(local), token + 1, v.y);
    imma_store(args, rows.at(local + 8), token, v.z);
    imma_store(args, rows.at(local + 8), token + 1, v.w);
  }
}

}  // namespace imp::cuda
