#pragma once
#include <cstdint>

namespace imp {

// The block layouts of the stored weight formats, as GGUF has them: little-endian, no padding. Plain data, so that
// host and device code share them. `d` and `dmin` are IEEE binary16 bits. The value of each weight is in the comment;
// q is its small integer, i its index in the block.

// 32 weights. Byte j of `qs` holds weight j in its low and weight j + 16 in its high nibble.
struct BlockQ4_0 {  // d * (q - 8)
  uint16_t d;
  uint8_t qs[16];
};
struct BlockQ4_1 {  // d * q + m
  uint16_t d;
  uint16_t m;
  uint8_t qs[16];
};
struct BlockQ5_0 {  // d * (q - 16); bit i of `qh`, read as one little-endian word, is bit 4 of q
  uint16_t d;
  uint8_t qh[4];
  uint8_t qs[16];
};
struct BlockQ5_1 {  // d * q + m
  uint16_t d;
  uint16_t m;
  uint8_t qh[4];
  uint8_t qs[16];
};
struct BlockQ8_0 {  // d * q
  uint16_t d;
  int8_t qs[32];
};
struct BlockIQ4NL {  // d * kIQ4Values[q]
  uint16_t d;
  uint8_t qs[16];
};
struct BlockMXFP4 {  // 2^(e - 127) * e2m1(q)
  uint8_t e;
  uint8_t qs[16];
};

// 64 weights in 4 groups of 16. Byte j of a group's 8 holds its weights j (low nibble) and j + 8 (high nibble).
struct BlockNVFP4 {  // ue4m3(d[group]) * e2m1(q); the tensor's global scale is stored apart
  uint8_t d[4];
  uint8_t qs[32];
};

// 256 weights.
struct BlockQ2K {  // 16 groups of 16: d * (scales & 15) * q - dmin * (scales >> 4)
  uint8_t scales[16];
  uint8_t qs[64];  // each 32 bytes: four runs of 32 weights, 2 bits each, lowest first
  uint16_t d;
  uint16_t dmin;
};
struct BlockQ3K {      // 16 groups of 16: d * (scale - 32) * (q2 - (hmask bit ? 0 : 4))
  uint8_t hmask[32];   // bit i / 32 of byte i % 32
  uint8_t qs[64];      // as in BlockQ2K
  uint8_t scales[12];  // 6 bits each: 8 bytes with the low nibbles of scales g and g + 8, 4 bytes with the high pairs
  uint16_t d;
};
struct BlockQ4K {  // 8 groups of 32: d * scale * q - dmin * min
  uint16_t d;
  uint16_t dmin;
  uint8_t scales[12];  // see group_scale_min()
  uint8_t qs[128];     // each 32 bytes: 32 weights in the low nibbles, the next 32 in the high ones
};
struct BlockQ5K {  // as BlockQ4K, with bit i / 32 of qh[i % 32] as bit 4 of q
  uint16_t d;
  uint16_t dmin;
  uint8_t scales[12];
  uint8_t qh[32];
  uint8_t qs[128];
};
struct BlockQ6K {   // 16 groups of 16: d * scale * (q - 32)
  uint8_t ql[128];  // each 64 bytes: 64 weights in the low nibbles, the next 64 in the high ones
  uint8_t qh[64];   // bits 4 and 5 of q, packed as in BlockQ2K
  int8_t scales[16];
  uint16_t d;
};
struct BlockIQ4XS {  // 8 groups of 32: d * (scale - 32) * kIQ4Values[q]
  uint16_t d;
  uint16_t scales_h;    // bits 2g, 2g + 1: the high bits of scale g
  uint8_t scales_l[4];  // the low nibbles of two scales each
  uint8_t qs[128];      // each 16 bytes as in BlockQ4_0
};

static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22);
static_assert(sizeof(BlockQ5_1) == 24 && sizeof(BlockQ8_0) == 34 && sizeof(BlockIQ4NL) == 18);
static_assert(sizeof(BlockMXFP4) == 17 && sizeof(BlockNVFP4) == 36);
static_assert(sizeof(BlockQ2K) == 84 && sizeof(BlockQ3K) == 110 && sizeof(BlockQ4K) == 144);
static_assert(sizeof(BlockQ5K) == 176 && sizeof(BlockQ6K) == 210 && sizeof(BlockIQ4XS) == 136);

/// The 16 values of the two IQ4 formats.
inline constexpr int8_t kIQ4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/// Twice the value of each FP4 code (sign, 2 exponent bits, 1 mantissa bit): integers, to be used with half scales.
inline constexpr int8_t kE2M1Doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

struct ScaleMin {
  uint8_t scale;
  uint8_t min;
};

/// Scale and minimum of group g (0..7) of Q4_K and Q5_K. Groups 0..3 have both in 6 low bits of bytes g and g + 4;
/// groups 4..7 have their low nibbles in byte g + 4 and their high pairs on top of bytes g - 4 and g.
constexpr ScaleMin group_scale_min(const uint8_t scales[12], int g) {
  if (g < 4) return {static_cast<uint8_t>(scales[g] & 63), static_cast<uint8_t>(scales[g + 4] & 63)};
  return {static_cast<uint8_t>((scales[g + 4] & 15) | ((scales[g - 4] >> 6) << 4)),
          static_cast<uint8_t>((scales[g + 4] >> 4) | ((scales[g] >> 6) << 4))};
}

/// Scale of group g (0..15) of Q3_K, its offset of 32 taken off.
constexpr int q3k_group_scale(const uint8_t scales[12], int g) {
  const int low = (scales[g % 8] >> (g / 8 * 4)) & 15;
  const int high = (scales[8 + g % 4] >> (g / 4 * 2)) & 3;
  return (low | (high << 4)) - 32;
}

/// Scale of group g (0..7) of IQ4_XS, its offset of 32 taken off.
constexpr int iq4xs_group_scale(const BlockIQ4XS& block, int g) {
  const int low = (block.scales_l[g / 2] >> (g % 2 * 4)) & 15;
  const int high = (block.scales_h >> (2 * g)) & 3;
  return (low | (high << 4)) - 32;
}

}  // namespace imp
