#pragma once
#include "device/packed_codecs.cuh"
#include "device/reduce.cuh"
#include "linear/gemv.h"

namespace imp::cuda {

// The activations of a GEMV in shared memory, made by every block for itself: as int8 per 32 or as they are. Norm
// weights are multiplied in; what the norm divides by is applied to the results, from the sums of squares.

/// Loads eight activations and, where there is a norm, its eight weights: thread i has elements 8i .. 8i + 7.
struct EightFloats {
  float4 low, high;
  __device__ __forceinline__ void load(const float* from) {
    low = *reinterpret_cast<const float4*>(from);
    high = *reinterpret_cast<const float4*>(from + 4);
  }
  __device__ __forceinline__ void clear() { low = high = make_float4(0, 0, 0, 0); }
  __device__ __forceinline__ void multiply(const EightFloats& by) {
    low.x *= by.low.x, low.y *= by.low.y, low.z *= by.low.z, low.w *= by.low.w;
    high.x *= by.high.x, high.y *= by.high.y, high.z *= by.high.z, high.w *= by.high.w;
  }
  __device__ __forceinline__ float sum_of_squares() const {
    return low.x * low.x + low.y * low.y + low.z * low.z + low.w * low.w + high.x * high.x + high.y * high.y +
           high.z * high.z + high.w * high.w;
  }
};

/// int8 codes in strips as in global memory (chunk, then lane), then scale and packed sums a block.
struct InputInt8 {
  struct alignas(8) BlockMeta {
    float scale;
    int16_t sum_low, sum_high;
  };
  static constexpr int kStripCols = 1024;

  __host__ __device__ static int blocks_padded(int cols) { return (cols / 32 + 31) / 32 * 32; }
  __host__ __device__ static int token_bytes(int cols) { return blocks_padded(cols) * (32 + 8); }
  __device__ static int items(int cols) { return blocks_padded(cols) * 4; }

  /// Item i is elements 8i .. 8i + 7; the four lanes of a block work together.
  __device__ __forceinline__ static void store(uint8_t* token, int cols, int item, const EightFloats& v) {
    const float values[8] = {v.low.x, v.low.y, v.low.z, v.low.w, v.high.x, v.high.y, v.high.z, v.high.w};
    // A NaN becomes the scale of its block, and so shows in the results.
    float amax = 0;
#pragma unroll
    for (float value : values) amax = max_or_nan(amax, fabsf(value));
    amax = max_or_nan(amax, __shfl_xor_sync(~0u, amax, 1));
    amax = max_or_nan(amax, __shfl_xor_sync(~0u, amax, 2));
    const float scale = amax / 127, inverse = amax > 0 ? 127 / amax : 0;
    uint32_t words[2];
    int sum = 0;
#pragma unroll
    for (int w = 0; w < 2; ++w) {
      int q[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) q[i] = __float2int_rn(values[w * 4 + i] * inverse);
      words[w] = __byte_perm(__byte_perm(q[0], q[1], 0x0040), __byte_perm(q[2], q[3], 0x0040), 0x5410);
      sum = __dp4a(static_cast<int>(words[w]), 0x01010101, sum);
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    const int other = __shfl_xor_sync(~0u, sum, 2);
    const int block = item / 4, quarter = item % 4;
    uint2* at = reinterpret_cast<uint2*>(token) + ((block / 32 * 2 + quarter / 2) * 32 + block % 32) * 2 + quarter % 2;
    *at = make_uint2(words[0], words[1]);
    if (quarter == 0)
      reinterpret_cast<BlockMeta*>(token + blocks_padded(cols) * 32)[block] = {scale, static_cast<int16_t>(sum),
                                                                               static_cast<int16_t>(other)};
  }

  ActivationBlock block;
  __device__ __forceinline__ void load(const uint8_t* token, int cols, int strip, int lane) {
    const uint4* codes = reinterpret_cast<const uint4*>(token) + strip * 64 + lane;
    const uint4 low = codes[0], high = codes[32];
    const BlockMeta meta = reinterpret_cast<const BlockMeta*>(token + blocks_padded(cols) * 32)[strip * 32 + lane];
    block.words[0] = low.x, block.words[1] = low.y, block.words[2] = low.z, block.words[3] = low.w;
    block.words[4] = high.x, block.words[5] = high.y, block.words[6] = high.z, block.words[7] = high.w;
    block.scale = meta.scale;
    block.sum_low = meta.sum_low, block.sum_high = meta.sum_high;
  }
  template <class Codec>
  __device__ __forceinline__ float product(const Codec& codec) const {
    return block.scale * codec.dot(block);
  }
  /// Lanes past the end of the row hold no weights.
  __device__ static bool has(int cols, int strip, int lane) { return strip * 32 + lane < cols / 32; }
};

/// fp32, cut so that a lane's loads meet no bank twice: for each 16 bytes of weights (kPer of them) kPer / 4 planes of
/// float4, lane after lane.
template <int kPer>
struct InputFloat {
  static constexpr int kPlanes = kPer / 4;
  static constexpr int kStripCols = 64 * kPer;

  __host__ __device__ static int token_bytes(int cols) { return (cols + kStripCols - 1) / kStripCols * kStripCols * 4; }
  __device__ static int items(int cols) { return token_bytes(cols) / 32; }

  __device__ __forceinline__ static int place(int quad) {  // of elements 4 quad .. 4 quad + 3
    return (quad / (32 * kPlanes) * kPlanes + quad % kPlanes) * 32 + quad / kPlanes % 32;
  }
  __device__ __forceinline__ static void store(uint8_t* token, int, int item, const EightFloats& v) {
    reinterpret_cast<float4*>(token)[place(item * 2)] = v.low;
    reinterpret_cast<float4*>(token)[place(item * 2 + 1)] = v.high;
  }

  float4 quads[2 * kPlanes];
  __device__ __forceinline__ void load(const uint8_t* token, int, int strip, int lane) {
#pragma unroll
    for (int i = 0; i < 2 * kPlanes; ++i)
      quads[i] = reinterpret_cast<const float4*>(token)[(strip * 2 * kPlanes + i) * 32 + lane];
  }
  template <class Values>
  __device__ __forceinline__ float product(const Values& values) const {
    float w[2 * kPer];
    values.to_floats(w);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 2 * kPlanes; ++i)
      sum += quads[i].x * w[i * 4] + quads[i].y * w[i * 4 + 1] + quads[i].z * w[i * 4 + 2] + quads[i].w * w[i * 4 + 3];
    return sum;
  }
  __device__ static bool has(int, int, int) { return true; }  // zeros past the end
};

}  // namespace imp::cuda
