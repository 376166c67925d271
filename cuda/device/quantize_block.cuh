#pragma once
#include <cuda_runtime.h>

#include "device/reduce.cuh"

namespace imp::cuda {

/// Four neighbours of a block of 32 activations as int8, and what their block has in common: eight lanes, which all
/// take part, share a block.
struct QuantizedFour {
  int codes[4];
  float scale;  // times `by`; its two lowest bits are 0, so that gemm_imma's sums stay exact
  int sum;      // of the codes of the block's 32
  int own_sum;  // of those of the 16 that this lane's four belong to

  __device__ __forceinline__ QuantizedFour(const float4& v, float by) {
    // A NaN becomes the scale of its block, and so shows in the results.
    float amax = max_or_nan(max_or_nan(fabsf(v.x), fabsf(v.y)), max_or_nan(fabsf(v.z), fabsf(v.w)));
#pragma unroll
    for (int offset = 4; offset > 0; offset /= 2) amax = max_or_nan(amax, __shfl_xor_sync(~0u, amax, offset));
    const float inverse = amax > 0 ? 127 / amax : 0;
    scale = __uint_as_float(__float_as_uint(amax / 127 * by) & ~3u);
    codes[0] = __float2int_rn(v.x * inverse), codes[1] = __float2int_rn(v.y * inverse);
    codes[2] = __float2int_rn(v.z * inverse), codes[3] = __float2int_rn(v.w * inverse);
    own_sum = codes[0] + codes[1] + codes[2] + codes[3];
    own_sum += __shfl_xor_sync(~0u, own_sum, 1);
    own_sum += __shfl_xor_sync(~0u, own_sum, 2);
    sum = own_sum + __shfl_xor_sync(~0u, own_sum, 4);
  }
};

}  // namespace imp::cuda
