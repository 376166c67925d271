#pragma once
#include "device/packed_codecs.cuh"

namespace imp::cuda {

/// Q2_K: byte j of the 8 holds weights j, j + 8, j + 16 and j + 24, lowest bits first.
struct CodecQ2K {
  uint2 codes;
  uint16_t scale_min;  // of each 16: scale in the low nibble, minimum in the high one
  uint32_t super;

  __device__ __forceinline__ void load(const uint8_t* packed, const uint8_t* scales, const uint8_t* supers, int64_t row,
                                       int block, int blocks_per_row) {
    codes = load_stream_8(packed + (row * blocks_per_row + block) * 8);
    scale_min = load_stream_2(scales + (row * blocks_per_row + block) * 2);
    super = load_stream_4(supers + (row * (blocks_per_row / 8) + block / 8) * 4);
  }
  __device__ __forceinline__ int scale(int half) const { return scale_min >> (half * 8) & 15; }
  __device__ __forceinline__ int min(int half) const { return scale_min >> (half * 8 + 4) & 15; }
  __device__ __forceinline__ float dot(const ActivationBlock& x) const {
    int sums[4] = {};  // of pair k of the bits, which stays where it is: 4^k times the sum, exactly
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      sums[k] = dot_u8_s8(codes.x & (0x03030303u << (2 * k)), x.words[2 * k], sums[k]);
      sums[k] = dot_u8_s8(codes.y & (0x03030303u << (2 * k)), x.words[2 * k + 1], sums[k]);
    }
    const int low = sums[0] + (sums[1] >> 2), high = (sums[2] >> 4) + (sums[3] >> 6);
    const float2 d = __half22float2(*reinterpret_cast<const __half2*>(&super));
    return d.x * static_cast<float>(scale(0) * low + scale(1) * high) -
           d.y * static_cast<float>(min(0) * x.sum_low + min(1) * x.sum_high);
  }
  __device__ __forceinline__ void values(float* out) const {
    const float2 d = __half22float2(*reinterpret_cast<const __half2*>(&super));
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const float s = d.x * static_cast<float>(scale(i / 16)), m = d.y * static_cast<float>(min(i / 16));
      const uint32_t word = i / 4 % 2 ? codes.y : codes.x;
      out[i] = scaled(s, static_cast<int>(word >> (i % 4 * 8 + i / 8 * 2) & 3), m);
    }
  }
};

/// Q3_K: 3-bit codes as two bits and one. Word p of the fields has weights 8k + 4p + b (b = 0..3) at bits 2k, 2k + 1 of
/// byte b: for even k the lower two bits of the code, for odd k the upper two. The bit left over lies in the plane, at
/// bit kPlaceOfThird[k] of byte b of the plane turned right by 2p: next to where the field is, so that both make one
/// number without a shift, and no two of the four fields want the same place.
struct CodecQ3K {
  uint2 fields;
  uint32_t plane;
  uint16_t scale_pair;
  uint16_t d;

  __device__ __forceinline__ void load(const uint8_t* packed, const uint8_t* scales, const uint8_t* supers, int64_t row,
                                       int block, int blocks_per_row) {
    const int strip = block / 32, lane = block % 32;
    const int width = min(32, blocks_per_row - strip * 32);
    const uint8_t* base = packed + (row * blocks_per_row + strip * 32) * 12;
    fields = load_stream_8(base + lane * 8);
    plane = load_stream_4(base + width * 8 + lane * 4);
    scale_pair = load_stream_2(scales + (row * blocks_per_row + block) * 2);
    d = load_stream_2(supers + (row * (blocks_per_row / 8) + block / 8) * 4);
  }
  /// The code of weights 8k + 4p .. + 3, times 1, 2, 16 and 32 for k of 0 to 3.
  __device__ __forceinline__ uint32_t word(int k, int p) const {
    const uint32_t bits = p ? __funnelshift_r(plane, plane, 2) : plane, w = p ? fields.y : fields.x;
    const uint32_t outer = (w & 0xc3c3c3c3u) | (bits & 0x3c3c3c3cu), inner = (w & 0x3c3c3c3cu) | (bits & 0xc3c3c3c3u);
    return k == 0   ? outer & 0x07070707u
           : k == 1 ? inner & 0x0e0e0e0eu
           : k == 2 ? inner & 0x70707070u
                    : outer & 0xe0e0e0e0u;
  }
  __device__ __forceinline__ float dot(const ActivationBlock& x) const {
    int sums[4] = {};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      sums[k] = dot_u8_s8(word(k, 0), x.words[2 * k], sums[k]);
      sums[k] = dot_u8_s8(word(k, 1), x.words[2 * k + 1], sums[k]);
    }
    const int low = sums[0] + (sums[1] >> 1), high = (sums[2] >> 4) + (sums[3] >> 5);
    const int s0 = static_cast<int8_t>(scale_pair & 255), s1 = static_cast<int8_t>(scale_pair >> 8);
    const int sum = s0 * (low - 4 * x.sum_low) + s1 * (high - 4 * x.sum_high);
    return __half2float(__ushort_as_half(d)) * static_cast<float>(sum);
  }
  __device__ __forceinline__ void values(float* out) const {
    const float ds = __half2float(__ushort_as_half(d));
    const float s0 = ds * static_cast<float>(static_cast<int8_t>(scale_pair & 255));
    const float s1 = ds * static_cast<float>(static_cast<int8_t>(scale_pair >> 8));
    constexpr int kShifts[4] = {0, 1, 4, 5};
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      const uint32_t code = word(i / 8, i / 4 % 2) >> (i % 4 * 8 + kShifts[i / 8]) & 7;
      out[i] = (i < 16 ? s0 : s1) * static_cast<float>(static_cast<int>(code) - 4);
    }
  }
};

}  // namespace imp::cuda
