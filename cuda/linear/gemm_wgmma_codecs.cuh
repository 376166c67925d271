#pragma once
#include <cuda_fp16.h>

#include "device/load.cuh"
#include "device/mma.cuh"
#include "linear/packed_weight.h"

namespace imp::cuda {

// How a thread of gemm_wgmma brings one block of 32 weights (linear/packed_weight.h) from global memory into the
// swizzled bf16 tile: load() fills registers some steps ahead, expand() makes the 4 chunks of 8 weights. The numbers
// are those of dequantize_bf16(): codes become floats exactly, products with their scales are exact, and one rounding
// follows.

/// Float 2^15 + byte i of v: the byte lands in bits 8 to 15 of the mantissa. Exact, one instruction.
template <int i>
__device__ __forceinline__ float byte_above_32768(uint32_t v) {
  return __uint_as_float(__byte_perm(v, 0x47000000u, 0x7404 + i * 16));
}
/// Float 128 + byte i of v, for bytes below 128.
template <int i>
__device__ __forceinline__ float byte_above_128(uint32_t v) {
  return __uint_as_float(__byte_perm(v, 0x43000000u, 0x7044 + i * 256));
}

/// Where the codes of a block are, for layouts with 2 chunks of 16 bytes a block.
struct TwoChunks {
  uint32_t low, high;
  __device__ __forceinline__ TwoChunks(unsigned block, unsigned blocks_per_row) {
    const unsigned strip = block / 32, width = min(32u, blocks_per_row - strip * 32);
    low = strip * 1024 + block % 32 * 16;
    high = low + width * 16;
  }
};

struct WgmmaQ8 {
  static constexpr int kInFlight = 4;  // blocks that a thread has in registers
  struct Row {
    const uint8_t *codes, *scales;
    __device__ __forceinline__ void set(const PackedView& w, int64_t row, int blocks) {
      codes = w.codes + row * blocks * 32;
      scales = w.scales + row * blocks * 2;
    }
  };
  uint4 low, high;
  uint16_t d;

  __device__ __forceinline__ void load(const Row& row, unsigned block, unsigned blocks) {
    const TwoChunks at(block, blocks);
    low = load_stream_16(row.codes + at.low);
    high = load_stream_16(row.codes + at.high);
    d = load_stream_2(row.scales + block * 2);
  }
  __device__ __forceinline__ void clear() { low = high = {}, d = 0; }
  __device__ __forceinline__ void expand(uint4 (&values)[4]) const {
    const uint32_t w[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    const float s = __half2float(__ushort_as_half(d)), offset = s * -32896.0f;  // 2^15 + 128: 9 bits times 11
#pragma unroll
    for (int chunk = 0; chunk < 4; ++chunk) {
      uint32_t out[4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t u = w[chunk * 2 + i] ^ 0x80808080u;  // code + 128
        out[i * 2] = pack_bf16(fmaf(byte_above_32768<0>(u), s, offset), fmaf(byte_above_32768<1>(u), s, offset));
        out[i * 2 + 1] = pack_bf16(fmaf(byte_above_32768<2>(u), s, offset), fmaf(byte_above_32768<3>(u), s, offset));
      }
      values[chunk] = {out[0], out[1], out[2], out[3]};
    }
  }
};

/// Where a row of a K format begins; its blocks have kCodes bytes of codes each.
template <int kCodes>
struct WgmmaKRow {
  const uint8_t *codes, *scales, *supers;
  __device__ __forceinline__ void set(const PackedView& w, int64_t row, int blocks) {
    codes = w.codes + row * blocks * kCodes;
    scales = w.scales + row * blocks * 2;
    supers = w.supers + row * (blocks / 8) * 4;
  }
};

struct WgmmaQ4K {
  static constexpr int kInFlight = 4;
  using Row = WgmmaKRow<16>;
  uint4 nibbles;
  uint16_t scale_min;
  uint32_t super;

  __device__ __forceinline__ void load(const Row& row, unsigned block, unsigned) {
    nibbles = load_stream_16(row.codes + block * 16);
    scale_min = load_stream_2(row.scales + block * 2);
    super = load_stream_4(row.supers + block / 8 * 4);
  }
  __device__ __forceinline__ void clear() { nibbles = {}, scale_min = 0, super = 0; }
  /// Two weights: q - 128 cancels the offset exactly, then s * q - m in one rounding (s * q is exact).
  template <int i>
  static __device__ __forceinline__ uint32_t pair(uint32_t v, float s, float m) {
    return pack_bf16(fmaf(byte_above_128<i>(v) - 128.0f, s, -m), fmaf(byte_above_128<i + 1>(v) - 128.0f, s, -m));
  }
  __device__ __forceinline__ void expand(uint4 (&values)[4]) const {
    const uint32_t w[4] = {nibbles.x, nibbles.y, nibbles.z, nibbles.w};
    const float2 d = __half22float2(*reinterpret_cast<const __half2*>(&super));
    const float s = d.x * static_cast<float>(scale_min & 255);
    const float m = d.y * static_cast<float>(scale_min >> 8);
#pragma unroll
    for (int chunk = 0; chunk < 4; ++chunk) {
      uint32_t out[4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t v = (w[chunk % 2 * 2 + i] >> (chunk / 2 * 4)) & 0x0f0f0f0fu;
        out[i * 2] = pair<0>(v, s, m);
        out[i * 2 + 1] = pair<2>(v, s, m);
      }
      values[chunk] = {out[0], out[1], out[2], out[3]};
    }
  }
};

struct WgmmaQ6K {
  static constexpr int kInFlight = 4;
  using Row = WgmmaKRow<24>;
  uint4 nibbles;
  uint2 pairs;
  uint16_t scale_pair, d;

  __device__ __forceinline__ void load(const Row& row, unsigned block, unsigned blocks) {
    const unsigned strip = block / 32, lane = block % 32, width = min(32u, blocks - strip * 32);
    nibbles = load_stream_16(row.codes + strip * 768 + lane * 16);
    pairs = load_stream_8(row.codes + strip * 768 + width * 16 + lane * 8);
    scale_pair = load_stream_2(row.scales + block * 2);
    d = load_stream_2(row.supers + block / 8 * 4);
  }
  __device__ __forceinline__ void clear() { nibbles = {}, pairs = {}, scale_pair = 0, d = 0; }
  __device__ __forceinline__ void expand(uint4 (&values)[4]) const {
    const uint32_t w[4] = {nibbles.x, nibbles.y, nibbles.z, nibbles.w};
    const float ds = __half2float(__ushort_as_half(d));
    const float s[2] = {ds * static_cast<float>(static_cast<int8_t>(scale_pair & 255)),
                        ds * static_cast<float>(static_cast<int8_t>(scale_pair >> 8))};
    const float offset[2] = {s[0] * -160.0f, s[1] * -160.0f};  // 128 + 32: 3 bits times 18, exact
#pragma unroll
    for (int chunk = 0; chunk < 4; ++chunk) {
      uint32_t out[4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int word = chunk * 2 + i;  // weights 4 word .. 4 word + 3
        const uint32_t low = (w[word % 4] >> (word / 4 * 4)) & 0x0f0f0f0fu;
        const uint32_t high = ((word % 2 ? pairs.y : pairs.x) >> (word / 2 * 2)) & 0x03030303u;
        const uint32_t v = low | (high << 4);
        const float sc = s[chunk / 2], off = offset[chunk / 2];
        out[i * 2] = pack_bf16(fmaf(byte_above_128<0>(v), sc, off), fmaf(byte_above_128<1>(v), sc, off));
        out[i * 2 + 1] = pack_bf16(fmaf(byte_above_128<2>(v), sc, off), fmaf(byte_above_128<3>(v), sc, off));
      }
      values[chunk] = {out[0], out[1], out[2], out[3]};
    }
  }
};

struct WgmmaQ5K {
  static constexpr int kInFlight = 4;
  using Row = WgmmaKRow<20>;
  uint4 nibbles;
  uint32_t plane, super;
  uint16_t scale_min;

  __device__ __forceinline__ void load(const Row& row, unsigned block, unsigned blocks) {
    const unsigned strip = block / 32, lane = block % 32, width = min(32u, blocks - strip * 32);
    nibbles = load_stream_16(row.codes + strip * 640 + lane * 16);
    plane = load_stream_4(row.codes + strip * 640 + width * 16 + lane * 4);
    scale_min = load_stream_2(row.scales + block * 2);
    super = load_stream_4(row.supers + block / 8 * 4);
  }
  __device__ __forceinline__ void clear() { nibbles = {}, plane = super = 0, scale_min = 0; }
  __device__ __forceinline__ void expand(uint4 (&values)[4]) const {
    const uint32_t w[4] = {nibbles.x, nibbles.y, nibbles.z, nibbles.w};
    const float2 d = __half22float2(*reinterpret_cast<const __half2*>(&super));
    const float s = d.x * static_cast<float>(scale_min & 255);
    const float m = d.y * static_cast<float>(scale_min >> 8);
#pragma unroll
    for (int chunk = 0; chunk < 4; ++chunk) {
      uint32_t out[4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        // FiveBits: the lower half has its highest bits in the plane, the upper half its lowest.
        const int k = chunk % 2 * 2 + i;
        const uint32_t bits = plane >> (2 * k);
        const uint32_t v = chunk < 2 ? (w[k] & 0x0f0f0f0fu) | ((bits << 3) & 0x10101010u)
                                     : ((w[k] >> 3) & 0x1e1e1e1eu) | (bits & 0x01010101u);
        out[i * 2] = WgmmaQ4K::pair<0>(v, s, m);
        out[i * 2 + 1] = WgmmaQ4K::pair<2>(v, s, m);
      }
      values[chunk] = {out[0], out[1], out[2], out[3]};
    }
  }
};

}  // namespace imp::cuda
