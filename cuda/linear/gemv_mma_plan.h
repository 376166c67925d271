#pragma once
#include "linear/gemv_plan.h"

namespace imp::cuda {

inline constexpr int kGemvMmaWarps = 8;
inline constexpr int kGemvMmaMostGroups = 25;  // of 16 rows, a block
inline constexpr int kTileSums = 512;          // bytes of the sums of 16 rows and 8 tokens

/// An instance of gemv_mma as the division of work sees it.
struct GemvMmaShape {
  int stage_bytes;   // 16 rows of a unit of k in the ring of a warp
  int pair_bytes;    // tokens of two blocks of 32
  int row_bytes[2];  // of 256 weights in either layout, for the balance between outputs
  int token_tiles;   // of 8
};

struct GemvMmaPlan {
  GemvPlan rows;  // shares of rows, one a block
  int depth;      // stages a warp
  int tokens_at, sums_at, shared_bytes;
  const uint8_t* tokens;
};

GemvMmaPlan plan_gemv_mma(const GemvArgs& args, const GemvMmaShape& shape, int num_sms, int max_shared_bytes);
/// Shared memory that a block needs at least, whatever the layout.
int gemv_mma_shared_bytes(int64_t cols, int64_t tokens);

}  // namespace imp::cuda
