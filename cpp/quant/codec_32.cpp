// Formats with one scale for 32 weights: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
#include "core/half.h"
#include "quant/codecs.h"

namespace imp {
namespace {

// q of weight i of the 4-bit formats.
int nibble(const uint8_t* qs, int i) { return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4; }

// q of weight i of the 5-bit formats.
int five_bits(const uint8_t* qs, const uint8_t* qh, int i) {
  return nibble(qs, i) | (((qh[i / 8] >> (i % 8)) & 1) << 4);
}

}  // namespace

void decode_block(const BlockQ4_0& block, float* dst) {
  const float d = f16_to_f32(block.d);
  for (int i = 0; i < 32; ++i) dst[i] = d * static_cast<float>(nibble(block.qs, i) - 8);
}

void decode_block(const BlockQ4_1& block, float* dst) {
  const float d = f16_to_f32(block.d);
  const float m = f16_to_f32(block.m);
  for (int i = 0; i < 32; ++i) dst[i] = d * static_cast<float>(nibble(block.qs, i)) + m;
}

void decode_block(const BlockQ5_0& block, float* dst) {
  const float d = f16_to_f32(block.d);
  for (int i = 0; i < 32; ++i) dst[i] = d * static_cast<float>(five_bits(block.qs, block.qh, i) - 16);
}

void decode_block(const BlockQ5_1& block, float* dst) {
  const float d = f16_to_f32(block.d);
  const float m = f16_to_f32(block.m);
  for (int i = 0; i < 32; ++i) dst[i] = d * static_cast<float>(five_bits(block.qs, block.qh, i)) + m;
}

void decode_block(const BlockQ8_0& block, float* dst) {
  const float d = f16_to_f32(block.d);
  for (int i = 0; i < 32; ++i) dst[i] = d * static_cast<float>(block.qs[i]);
}

}  // namespace imp
