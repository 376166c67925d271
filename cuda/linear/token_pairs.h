#pragma once
#include <cuda_runtime_api.h>

#include "ops/args.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// Activations as int8 with a scale a block of 32, the way gemv_mma's lanes want them, for `tiles` * 8 tokens: a pair
/// of blocks of a tile of 8 tokens is contiguous, [pair][tile]:
///   codes   [lane][2 blocks][2]: of token lane / 4 the words of 4 codes lane % 4 and lane % 4 + 4
///   floats  [planes][2 tokens][2 blocks][2]: the scale; scale * sum of the codes; scale * sum of the first 16 codes
/// What belongs to tokens that are not there is undefined.
__host__ __device__ constexpr int token_pair_bytes(int planes) { return 512 + 64 * planes; }

/// out = h of `args`, whose columns are a multiple of 256, in that layout; numbers as quantize_tokens() makes them. One
/// block a token where a norm is asked for. Bytes moved: tokens * cols * (4 + 1.2).
void quantize_token_pairs(const LinearArgs& args, int tiles, int planes, void* out, const LaunchContext& context);

}  // namespace imp::cuda
