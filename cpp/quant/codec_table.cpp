// Formats whose 4-bit codes go through a table of 16 values: IQ4_NL, IQ4_XS, MXFP4, NVFP4.
#include <bit>

#include "core/half.h"
#include "quant/codecs.h"

namespace imp {
namespace {

// `width` codes from width / 2 bytes: the low nibbles first, then the high ones.
void decode_codes(const uint8_t* qs, int width, const int8_t values[16], float scale, float* dst) {
  const int half = width / 2;
  for (int j = 0; j < half; ++j) {
    dst[j] = scale * static_cast<float>(values[qs[j] & 15]);
    dst[j + half] = scale * static_cast<float>(values[qs[j] >> 4]);
  }
}

}  // namespace

float half_e8m0_to_f32(uint8_t exponent) {
  if (exponent < 2) return std::bit_cast<float>(uint32_t{0x00200000} << exponent);
  return std::bit_cast<float>(static_cast<uint32_t>(exponent - 1) << 23);
}

float half_ue4m3_to_f32(uint8_t bits) {
  if (bits == 0x7f) return 0.0f;
  const uint32_t exponent = (bits >> 3) & 15u;
  const uint32_t mantissa = bits & 7u;
  if (exponent == 0) return static_cast<float>(mantissa) * 0x1p-10f;
  return std::bit_cast<float>(((exponent + 127 - 7 - 1) << 23) | (mantissa << 20));
}

void decode_block(const BlockIQ4NL& block, float* dst) {
  decode_codes(block.qs, 32, kIQ4Values, f16_to_f32(block.d), dst);
}

void decode_block(const BlockIQ4XS& block, float* dst) {
  const float d = f16_to_f32(block.d);
  for (int g = 0; g < 8; ++g) {
    const float scale = d * static_cast<float>(iq4xs_group_scale(block, g));
    decode_codes(block.qs + g * 16, 32, kIQ4Values, scale, dst + g * 32);
  }
}

void decode_block(const BlockMXFP4& block, float* dst) {
  decode_codes(block.qs, 32, kE2M1Doubled, half_e8m0_to_f32(block.e), dst);
}

void decode_block(const BlockNVFP4& block, float* dst) {
  for (int g = 0; g < 4; ++g) {
    decode_codes(block.qs + g * 8, 16, kE2M1Doubled, half_ue4m3_to_f32(block.d[g]), dst + g * 16);
  }
}

}  // namespace imp
