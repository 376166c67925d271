#pragma once
#include "device/packed_codecs.cuh"
#include "linear/packed_weight.h"

namespace imp::cuda {

/// 32 codes of 5 bits, cut so that they become bytes with few instructions. Byte j of the nibbles: the lower four bits
/// of weight j, and above them the upper four of weight 16 + j. Byte b of the plane has the bits left over: bit 2k the
/// lowest of weight 16 + 4k + b, bit 2k + 1 the highest of weight 4k + b; side by side because they belong side by
/// side, at bits 3 and 4, where the nibbles of both kinds leave room for them.
struct FiveBits {
  uint4 nibbles;
  uint32_t plane;

  /// Weights 4k .. 4k + 3 as bytes, and 16 + 4k .. 19 + 4k as bytes times 8.
  __device__ __forceinline__ uint2 words(int k) const {
    const uint32_t w = k == 0 ? nibbles.x : k == 1 ? nibbles.y : k == 2 ? nibbles.z : nibbles.w;
    const uint32_t bits = (k < 2 ? plane << (3 - 2 * k) : plane >> (2 * k - 3)) & 0x18181818u;
    return {(w & 0x0f0f0f0fu) | (bits & 0xf0f0f0f0u), (w & 0xf0f0f0f0u) | (bits & 0x0f0f0f0fu)};
  }
  /// Sum of the 32 products, exactly.
  __device__ __forceinline__ int dot(const ActivationBlock& x) const {
    int low = 0, high = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const uint2 w = words(k);
      low = dot_u8_s8(w.x, x.words[k], low);
      high = dot_u8_s8(w.y, x.words[k + 4], high);
    }
    return low + (high >> 3);
  }
  __device__ __forceinline__ int code(int i) const {
    const uint2 w = words(i % 16 / 4);
    return static_cast<int>(i < 16 ? (w.x >> (i % 4 * 8)) & 31 : (w.y >> (i % 4 * 8 + 3)) & 31);
  }
};

struct CodecQ5K : ScaleAndMin {
  FiveBits codes;

  __device__ __forceinline__ void load(const uint8_t* packed, const uint8_t* scales, const uint8_t* supers, int64_t row,
                                       int block, int blocks_per_row) {
    const TwoParts at = two_parts<16, 4>(packed, row, block, blocks_per_row);
    codes.nibbles = load_stream_16(at.first);
    codes.plane = load_stream_4(at.second);
    load_scales(scales, supers, row, block, blocks_per_row);
  }
  __device__ __forceinline__ float dot(const ActivationBlock& x) const {
    const float2 sm = scale_and_min();
    return sm.x * static_cast<float>(codes.dot(x)) - sm.y * static_cast<float>(x.sum_low + x.sum_high);
  }
  __device__ __forceinline__ void values(float* out) const {
    const float2 sm = scale_and_min();
#pragma unroll
    for (int i = 0; i < 32; ++i) out[i] = scaled(sm.x, codes.code(i), sm.y);
  }
};

/// Q5_0 and (kMin) Q5_1: the plane lies where other layouts have their supers.
template <bool kMin>
struct CodecQ5 {
  static constexpr int kScaleBytes = kMin ? 4 : 2;
  FiveBits codes;
  uint32_t scale;  // f16 d, and with kMin f16 m above it

  __device__ __forceinline__ void load(const uint8_t* packed, const uint8_t* scales, const uint8_t* planes, int64_t row,
                                       int block, int blocks_per_row) {
    codes.nibbles = load_stream_16(packed + chunk_offset<16>(row, block, blocks_per_row, 0, 1));
    codes.plane = load_stream_4(planes + row * padded_row_bytes(blocks_per_row, 4) + block * 4);
    const uint8_t* at = scales + row * padded_row_bytes(blocks_per_row, kScaleBytes) + block * kScaleBytes;
    if constexpr (kMin) {
      scale = load_stream_4(at);
    } else {
      scale = load_stream_2(at);
    }
  }
  __device__ __forceinline__ float dot(const ActivationBlock& x) const {
    const float2 sm = __half22float2(*reinterpret_cast<const __half2*>(&scale));
    const int sum = codes.dot(x), all = x.sum_low + x.sum_high;
    if constexpr (kMin) {
      return sm.x * static_cast<float>(sum) + sm.y * static_cast<float>(all);
    } else {
      return sm.x * static_cast<float>(sum - 16 * all);
    }
  }
  __device__ __forceinline__ void values(float* out) const {
    const float2 sm = __half22float2(*reinterpret_cast<const __half2*>(&scale));
#pragma unroll
    for (int i = 0; i < 32; ++i)
      out[i] = kMin ? scaled(sm.x, codes.code(i), -sm.y) : sm.x * static_cast<float>(codes.code(i) - 16);
  }
};

}  // namespace imp::cuda
