#pragma once
#include <cuda_fp16.h>

#include <cstdint>

#include "device/load.cuh"

namespace imp::cuda {

// One codec a packed layout (linear/packed_weight.h): how a lane gets one block of 32 weights, multiplies it with 32
// int8 activations, and turns it into floats. `block` counts along the row; a strip is 32 blocks, `width` of them in
// the last.

/// Where a block's codes are: offset of its first chunk and the distance between its chunks, in bytes.
template <int kChunkBytes>
__device__ __forceinline__ int64_t chunk_offset(int64_t row, int block, int blocks_per_row, int chunk,
                                                int chunks_per_block) {
  const int strip = block / 32, lane = block % 32;
  const int width = min(32, blocks_per_row - strip * 32);
  return (row * blocks_per_row + strip * 32) * (kChunkBytes * chunks_per_block) +
         (static_cast<int64_t>(chunk) * width + lane) * kChunkBytes;
}

/// Four products of unsigned weights and signed activations, added to `sum`.
__device__ __forceinline__ int dot_u8_s8(uint32_t weights, int activations, int sum) {
  int result;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(weights), "r"(activations), "r"(sum));
  return result;
}

/// s * q - m in two roundings, as dequantize() does it.
__device__ __forceinline__ float scaled(float s, int q, float m) {
  return __fsub_rn(__fmul_rn(s, static_cast<float>(q)), m);
}

/// What a lane knows of 32 activations: 8 words of int8, their scale, and the sums of each 16.
struct ActivationBlock {
  int words[8];
  float scale;
  int sum_low, sum_high;
};

struct CodecQ8 {
  uint4 low, high;
  uint16_t d;

  __device__ __forceinline__ void load(const uint8_t* codes, const uint8_t* scales, const uint8_t*, int64_t row,
                                       int block, int blocks_per_row) {
    low = load_stream_16(codes + chunk_offset<16>(row, block, blocks_per_row, 0, 2));
    high = load_stream_16(codes + chunk_offset<16>(row, block, blocks_per_row, 1, 2));
    d = load_stream_2(scales + (row * blocks_per_row + block) * 2);
  }
  __device__ __forceinline__ float dot(const ActivationBlock& x) const {
    const uint32_t w[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    int sum = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = __dp4a(static_cast<int>(w[i]), x.words[i], sum);
    return __half2float(__ushort_as_half(d)) * static_cast<float>(sum);
  }
  __device__ __forceinline__ void values(float* out) const {
    const uint32_t w[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    const float s = __half2float(__ushort_as_half(d));
#pragma unroll
    for (int i = 0; i < 32; ++i) out[i] = s * static_cast<float>(static_cast<int8_t>(w[i / 4] >> (i % 4 * 8)));
  }
};

/// Of Q4_K and Q5_K: a byte of scale and one of minimum a block, an f16 d and dmin for 8 blocks.
struct ScaleAndMin {
  uint16_t scale_min;
  uint32_t super;

  __device__ __forceinline__ void load_scales(const uint8_t* scales, const uint8_t* supers, int64_t row, int block,
                                              int blocks_per_row) {
    scale_min = load_stream_2(scales + (row * blocks_per_row + block) * 2);
    super = load_stream_4(supers + (row * (blocks_per_row / 8) + block / 8) * 4);
  }
  __device__ __forceinline__ float2 scale_and_min() const {
    const float2 d = __half22float2(*reinterpret_cast<const __half2*>(&super));
    return {d.x * static_cast<float>(scale_min & 255), d.y * static_cast<float>(scale_min >> 8)};
  }
};

/// Codes in two parts: a strip has kFirst bytes of each of its blocks, then kSecond bytes of each.
struct TwoParts {
  const uint8_t *first, *second;
};
template <int kFirst, int kSecond>
__device__ __forceinline__ TwoParts two_parts(const uint8_t* codes, int64_t row, int block, int blocks_per_row) {
  const int strip = block / 32, lane = block % 32;
  const int width = min(32, blocks_per_row - strip * 32);
  const uint8_t* base = codes + (row * blocks_per_row + strip * 32) * (kFirst + kSecond);
  return {base + lane * kFirst, base + width * kFirst + lane * kSecond};
}

struct CodecQ4K : ScaleAndMin {
  uint4 nibbles;

  __device__ __forceinline__ void load(const uint8_t* codes, const uint8_t* scales, const uint8_t* supers, int64_t row,
                                       int block, int blocks_per_row) {
    nibbles = load_stream_16(codes + chunk_offset<16>(row, block, blocks_per_row, 0, 1));
    load_scales(scales, supers, row, block, blocks_per_row);
  }
  __device__ __forceinline__ float dot(const ActivationBlock& x) const {
    const uint32_t w[4] = {nibbles.x, nibbles.y, nibbles.z, nibbles.w};
    int low = 0, high = 0;  // the upper nibbles stay where they are: 16 times the sum, exactly
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      low = dot_u8_s8(w[i] & 0x0f0f0f0fu, x.words[i], low);
      high = dot_u8_s8(w[i] & 0xf0f0f0f0u, x.words[i + 4], high);
    }
    const int sum = low + (high >> 4);
    const float2 sm = scale_and_min();
    return sm.x * static_cast<float>(sum) - sm.y * static_cast<float>(x.sum_low + x.sum_high);
  }
  __device__ __forceinline__ void values(float* out) const {
    const uint32_t w[4] = {nibbles.x, nibbles.y, nibbles.z, nibbles.w};
    const float2 sm = scale_and_min();
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const uint32_t byte = w[i / 4] >> (i % 4 * 8);
      out[i] = scaled(sm.x, byte & 15, sm.y);
      out[i + 16] = scaled(sm.x, (byte >> 4) & 15, sm.y);
    }
  }
};

struct CodecQ6K {
  uint4 nibbles;
  uint2 pairs;
  uint16_t scale_pair;
  uint16_t d;

  __device__ __forceinline__ void load(const uint8_t* codes, const uint8_t* scales, const uint8_t* supers, int64_t row,
                                       int block, int blocks_per_row) {
    const TwoParts at = two_parts<16, 8>(codes, row, block, blocks_per_row);
    nibbles = load_stream_16(at.first);
    pairs = load_stream_8(at.second);
    scale_pair = load_stream_2(scales + (row * blocks_per_row + block) * 2);
    d = load_stream_2(supers + (row * (blocks_per_row / 8) + block / 8) * 4);
  }
  /// Word i of the 8 with the codes 0..63 of weights 4i .. 4i + 3.
  __device__ __forceinline__ uint32_t word(int i) const {
    const uint32_t w[4] = {nibbles.x, nibbles.y, nibbles.z, nibbles.w};
    const uint32_t low = (w[i % 4] >> (i / 4 * 4)) & 0x0f0f0f0fu;
    // Weights 4i..4i+3 sit in bytes (4i) % 8 of the pairs, at bit 2 * (4i / 8); they belong at bit 4.
    const uint32_t source = i % 2 ? pairs.y : pairs.x;
    const int shift = 4 - i / 2 * 2;
    return low | ((shift >= 0 ? source << shift : source >> -shift) & 0x30303030u);
  }
  __device__ __forceinline__ float dot(const ActivationBlock& x) const {
    int low = 0, high = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      low = __dp4a(static_cast<int>(word(i)), x.words[i], low);
      high = __dp4a(static_cast<int>(word(i + 4)), x.words[i + 4], high);
    }
    const int s0 = static_cast<int8_t>(scale_pair & 255), s1 = static_cast<int8_t>(scale_pair >> 8);
    const int sum = s0 * (low - 32 * x.sum_low) + s1 * (high - 32 * x.sum_high);
    return __half2float(__ushort_as_half(d)) * static_cast<float>(sum);
  }
  __device__ __forceinline__ void values(float* out) const {
    const float ds = __half2float(__ushort_as_half(d));
    const float s0 = ds * static_cast<float>(static_cast<int8_t>(scale_pair & 255));
    const float s1 = ds * static_cast<float>(static_cast<int8_t>(scale_pair >> 8));
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const int q = static_cast<int>((word(i / 4) >> (i % 4 * 8)) & 63) - 32;
      out[i] = (i < 16 ? s0 : s1) * static_cast<float>(q);
    }
  }
};

}  // namespace imp::cuda
