#pragma once
#include "linear/gemv.h"

namespace imp::cuda {

/// A GEMV instance as the division of work sees it.
struct GemvShape {
  int strip_bytes[2];  // of a row, in the first and the second layout
  int slot_bytes;      // that either takes in the ring
  int strip_cols;
  int token_bytes;  // activations of one token in shared memory
  int rows;         // that a warp takes at a time
  int tokens;       // that it has sums for
  int warps;
  int depth;  // of the ring
};

/// How a launch divides its work. Made by the host, so that kernels need few divisions.
struct GemvPlan {
  int first_block[4];                    // output i has blocks first_block[i] .. first_block[i + 1]
  int rows_each[3];                      // rows (gated: pairs) of each of its blocks,
  int blocks_longer[3];                  // one more in as many of the first
  int chunk_strips, num_chunks;          // what a warp multiplies in one go: so many strips of its rows
  int chunks_per_turn, groups_per_turn;  // warps as groups * num_chunks + chunks: from one go of a warp to its next
  int ring_bytes, shared_bytes;
  float one_over_cols;
};

/// What a launch takes above or below half of the shared memory, so that blocks land as plan_gemv() says.
inline constexpr int kGemvUneven = 4096;
/// Shared memory for the sums of a block's rows before they are put together.
inline constexpr int kGemvPartialBytes = 16 * 1024;

/// `half_shared_bytes`: what each of two blocks that share an SM can have.
GemvPlan plan_gemv(const GemvArgs& args, const GemvShape& shape, int num_sms, int half_shared_bytes);

/// Fills in which blocks have which rows: each output's in proportion to its bytes; what rounding leaves over goes to
/// where a block has most to do. More than `num_blocks` where one would have more than `max_rows`.
void divide_rows(GemvPlan& plan, const GemvArgs& args, const GemvShape& shape, int num_blocks, int max_rows);

/// Rows of one block.
struct GemvShare {
  int output, first, rows;
};
__host__ __device__ inline GemvShare gemv_share(const GemvPlan& plan, int block) {
  const int output = (block >= plan.first_block[1]) + (block >= plan.first_block[2]);
  const int local = block - plan.first_block[output], longer = plan.blocks_longer[output];
  return {output, local * plan.rows_each[output] + (local < longer ? local : longer),
          plan.rows_each[output] + (local < longer)};
}

}  // namespace imp::cuda
