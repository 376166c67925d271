#pragma once
#include <cuda_runtime_api.h>

#include "ops/args.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// Activations as int8 with a scale a block of 32, the way gemm_imma's tiles want them: tokens are cut into tiles of
/// `tile_tokens`, the blocks of a row into slabs of `slab_blocks`, and a (tile, slab) is contiguous, slabs of a tile
/// one after another:
///   codes   [tile_tokens][slab_blocks * 32 + 16 bytes of padding]
///   floats  [3][slab_blocks][tile_tokens]: the scale; scale * sum of the codes; scale * sum of the first 16 codes
/// What belongs to tokens beyond `tokens` or to blocks beyond the row is undefined.
struct TokenCodes {
  int tile_tokens;
  int slab_blocks;
  int slabs;  // a row

  TokenCodes(int tokens_a_tile, int blocks_a_slab, int cols)
      : tile_tokens(tokens_a_tile),
        slab_blocks(blocks_a_slab),
        slabs((cols / 32 + blocks_a_slab - 1) / blocks_a_slab) {}
  __host__ __device__ static constexpr int code_bytes(int tile_tokens, int slab_blocks) {
    return tile_tokens * (slab_blocks * 32 + 16);
  }
  __host__ __device__ static constexpr int slab_bytes(int tile_tokens, int slab_blocks) {
    return code_bytes(tile_tokens, slab_blocks) + 3 * slab_blocks * tile_tokens * 4;
  }
  int64_t bytes(int tokens) const {
    return int64_t{(tokens + tile_tokens - 1) / tile_tokens} * slabs * slab_bytes(tile_tokens, slab_blocks);
  }
};

/// out = h of `args` in that layout. q = round(h * 127 / amax) by blocks; scale = amax / 127 with its two lowest bits
/// cleared. Where norm_weight is set, x * norm_weight is quantised and 1 / rms goes into the scale. x is fp32 or bf16.
/// One block a token where a norm is asked for. Bytes moved: tokens * cols * (4 + 1.4).
void quantize_tokens(const LinearArgs& args, const TokenCodes& layout, void* out, const LaunchContext& context);

}  // namespace imp::cuda
