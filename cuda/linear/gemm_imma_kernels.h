#pragma once
#include "linear/gemm_imma.h"

namespace imp::cuda {

/// What the choice of a layout's tile, and of gemm_imma at all, goes by.
struct ImmaTraits {
  /// Few instructions expand a block, so that it stays ahead of a bf16 copy's products for longer.
  bool cheap = false;
  /// The widest tile that gains: layouts with more to do for a scale gain nothing from the last.
  int widest = kImmaTiles - 2;
};

/// gemm_imma of one layout.
struct ImmaKernel {
  PackedLayout layout;
  ImmaTraits traits;
  const char* (*reject)(int tile, int64_t max_shared_bytes);
  void (*launch)(int tile, const LinearArgs& args, const ImmaScratch& scratch, const LaunchContext& context);
};

// Each in a .cu of its own, so that they compile side by side; gemm_imma.cpp has the table.
extern const ImmaKernel imma_q8, imma_q4k, imma_q6k, imma_q4_0, imma_q4_1, imma_iq4nl, imma_iq4xs, imma_mxfp4,
    imma_nvfp4, imma_q5k, imma_q5_0, imma_q5_1, imma_q3k, imma_q2k;

/// How many blocks share a tile along k: as many as make the rounds of the grid shortest.
int imma_splits(int tiles, int slabs, int64_t tile_bytes, const ImmaScratch& scratch, int num_sms);

}  // namespace imp::cuda
