// Packing of the formats of device/nibble_formats.cuh.
#include "device/nibble_formats.cuh"
#include "linear/pack_blocks.cuh"
#include "linear/packed_weight.h"

namespace imp::cuda {
namespace {

/// A block of 32 weights on its way: codes as in the file, and what the layout keeps beside them.
struct Nibbles {
  uint8_t q[32];
  uint32_t scale, super;
};

__device__ void take_codes(Nibbles& to, int first, int count, const uint8_t* qs) {
  for (int j = 0; j < count / 2; ++j) {
    to.q[first + j] = qs[j] & 15;
    to.q[first + j + count / 2] = qs[j] >> 4;
  }
}

/// The negative zero of FP4 is the positive one.
__device__ void one_zero(Nibbles& to) {
  for (uint8_t& q : to.q) q = q == 8 ? 0 : q;
}

__device__ void take(const BlockQ4_0& b, int, Nibbles& to) {
  take_codes(to, 0, 32, b.qs);
  for (uint8_t& q : to.q) q ^= 8;  // q - 8 in two's complement
  to.scale = b.d;
}
__device__ void take(const BlockQ4_1& b, int, Nibbles& to) {
  take_codes(to, 0, 32, b.qs);
  to.scale = b.d | uint32_t{b.m} << 16;
}
__device__ void take(const BlockIQ4NL& b, int, Nibbles& to) {
  take_codes(to, 0, 32, b.qs);
  to.scale = b.d;
}
__device__ void take(const BlockIQ4XS& b, int g, Nibbles& to) {
  take_codes(to, 0, 32, b.qs + g * 16);
  const int low = (b.scales_l[g / 2] >> (g % 2 * 4)) & 15, high = (b.scales_h >> (2 * g)) & 3;
  to.scale = static_cast<uint8_t>((low | (high << 4)) - 32);
  to.super = b.d;
}
__device__ void take(const BlockMXFP4& b, int, Nibbles& to) {
  take_codes(to, 0, 32, b.qs);
  one_zero(to);
  to.scale = b.e;
}
__device__ void take(const BlockNVFP4& b, int g, Nibbles& to) {
  to.scale = 0;
  for (int half = 0; half < 2; ++half) {
    take_codes(to, half * 16, 16, b.qs + (g * 2 + half) * 8);
    const uint32_t d = b.d[g * 2 + half];
    to.scale |= (d == 0x7f ? 0 : d & 0x7f) << (half * 8);
  }
  one_zero(to);
}

/// Weights j and j + 16 share byte j. Where codes are looked up: see struct LookedUp.
template <bool kLookedUp>
__device__ uint8_t packed_byte(const uint8_t (&q)[32], int j) {
  if (!kLookedUp) return static_cast<uint8_t>(q[j] | q[j + 16] << 4);
  const auto stored = [](int code) { return code / 2 | code % 2 * 8; };
  const int first = j / 4 * 4 + j % 4 / 2 * 16 + j % 2 * 2;
  return static_cast<uint8_t>(stored(q[first]) | stored(q[first + 1]) << 4);
}

template <class Format, class Block, int kBlockWeights, bool kLookedUp>
struct PackNibbles {
  static __device__ void pack(const uint8_t* source, const PackTarget& to, const PackPlace& at) {
    constexpr int kPer = kBlockWeights / 32, kScale = Format::kScaleBytes;
    Nibbles from;
    take(fetch_block<Block>(source, at.index / kPer), static_cast<int>(at.index % kPer), from);
    uint8_t* codes = to.codes + strip_base(at.row, at.block, to.blocks_per_row, 16) + at.block % 32 * 16;
    for (int j = 0; j < 16; ++j) codes[j] = packed_byte<kLookedUp>(from.q, j);
    uint8_t* scale = to.scales + at.row * padded_row_bytes(to.blocks_per_row, kScale) + at.block * kScale;
    for (int i = 0; i < kScale; ++i) scale[i] = static_cast<uint8_t>(from.scale >> (i * 8));
    if (Format::kSupers && at.index % 8 == 0) reinterpret_cast<uint32_t*>(to.supers)[at.index / 8] = from.super;
  }
};

}  // namespace

void pack_q4_0(const uint8_t* from, const PackTarget& to, int64_t total, const LaunchContext& context) {
  launch_pack<PackNibbles<NibbleQ4_0, BlockQ4_0, 32, false>>(from, to, total, context);
}
void pack_q4_1(const uint8_t* from, const PackTarget& to, int64_t total, const LaunchContext& context) {
  launch_pack<PackNibbles<NibbleQ4_1, BlockQ4_1, 32, false>>(from, to, total, context);
}
void pack_iq4_nl(const uint8_t* from, const PackTarget& to, int64_t total, const LaunchContext& context) {
  launch_pack<PackNibbles<NibbleIQ4NL, BlockIQ4NL, 32, true>>(from, to, total, context);
}
void pack_iq4_xs(const uint8_t* from, const PackTarget& to, int64_t total, const LaunchContext& context) {
  launch_pack<PackNibbles<NibbleIQ4XS, BlockIQ4XS, 256, true>>(from, to, total, context);
}
void pack_mxfp4(const uint8_t* from, const PackTarget& to, int64_t total, const LaunchContext& context) {
  launch_pack<PackNibbles<NibbleMXFP4, BlockMXFP4, 32, true>>(from, to, total, context);
}
void pack_nvfp4(const uint8_t* from, const PackTarget& to, int64_t total, const LaunchContext& context) {
  launch_pack<PackNibbles<NibbleNVFP4, BlockNVFP4, 64, true>>(from, to, total, context);
}

}  // namespace imp::cuda
