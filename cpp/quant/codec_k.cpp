// The K formats: 256 weights in groups, with small integer scales per group under one or two f16 scales.
#include "core/half.h"
#include "quant/codecs.h"

namespace imp {
namespace {

// The i-th 2-bit field of 64 bytes: bytes 0..31 hold fields 0..127 in four runs of 32, bytes 32..63 the rest.
int two_bits(const uint8_t* qs, int i) { return (qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3; }

// The i-th nibble, where each run of `run` bytes holds `run` low nibbles and then `run` high ones.
int nibble(const uint8_t* qs, int run, int i) { return (qs[i / (2 * run) * run + i % run] >> (i / run % 2 * 4)) & 15; }

}  // namespace

void decode_block(const BlockQ2K& block, float* dst) {
  const float d = f16_to_f32(block.d);
  const float dmin = f16_to_f32(block.dmin);
  for (int g = 0; g < 16; ++g) {
    const float scale = d * static_cast<float>(block.scales[g] & 15);
    const float min = dmin * static_cast<float>(block.scales[g] >> 4);
    for (int i = g * 16; i < g * 16 + 16; ++i) dst[i] = scale * static_cast<float>(two_bits(block.qs, i)) - min;
  }
}

void decode_block(const BlockQ3K& block, float* dst) {
  const float d = f16_to_f32(block.d);
  for (int g = 0; g < 16; ++g) {
    const float scale = d * static_cast<float>(q3k_group_scale(block.scales, g));
    for (int i = g * 16; i < g * 16 + 16; ++i) {
      const int keep = (block.hmask[i % 32] >> (i / 32)) & 1;
      dst[i] = scale * static_cast<float>(two_bits(block.qs, i) - (keep ? 0 : 4));
    }
  }
}

void decode_block(const BlockQ4K& block, float* dst) {
  const float d = f16_to_f32(block.d);
  const float dmin = f16_to_f32(block.dmin);
  for (int g = 0; g < 8; ++g) {
    const ScaleMin group = group_scale_min(block.scales, g);
    const float scale = d * static_cast<float>(group.scale);
    const float min = dmin * static_cast<float>(group.min);
    for (int i = g * 32; i < g * 32 + 32; ++i) dst[i] = scale * static_cast<float>(nibble(block.qs, 32, i)) - min;
  }
}

void decode_block(const BlockQ5K& block, float* dst) {
  const float d = f16_to_f32(block.d);
  const float dmin = f16_to_f32(block.dmin);
  for (int g = 0; g < 8; ++g) {
    const ScaleMin group = group_scale_min(block.scales, g);
    const float scale = d * static_cast<float>(group.scale);
    const float min = dmin * static_cast<float>(group.min);
    for (int i = g * 32; i < g * 32 + 32; ++i) {
      const int high = (block.qh[i % 32] >> g) & 1;
      dst[i] = scale * static_cast<float>(nibble(block.qs, 32, i) | (high << 4)) - min;
    }
  }
}

void decode_block(const BlockQ6K& block, float* dst) {
  const float d = f16_to_f32(block.d);
  for (int g = 0; g < 16; ++g) {
    const float scale = d * static_cast<float>(block.scales[g]);
    for (int i = g * 16; i < g * 16 + 16; ++i) {
      const int q = nibble(block.ql, 64, i) | (two_bits(block.qh, i) << 4);
      dst[i] = scale * static_cast<float>(q - 32);
    }
  }
}

}  // namespace imp
