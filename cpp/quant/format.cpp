#include "quant/format.h"

#include <bit>
#include <cassert>
#include <cstring>

#include "core/half.h"
#include "quant/codecs.h"

namespace imp {

static_assert(std::endian::native == std::endian::little, "stored weights are little-endian and used in place");

namespace {

using Decoder = void (*)(const std::byte* src, float* dst, int64_t blocks);

void decode_f32(const std::byte* src, float* dst, int64_t blocks) {
  std::memcpy(dst, src, static_cast<size_t>(blocks) * sizeof(float));
}

template <float (*kWiden)(uint16_t)>
void decode_narrow_floats(const std::byte* src, float* dst, int64_t blocks) {
  for (int64_t i = 0; i < blocks; ++i) {
    uint16_t bits;
    std::memcpy(&bits, src + i * 2, sizeof bits);
    dst[i] = kWiden(bits);
  }
}

template <class Block, int kElements>
void decode_blocks(const std::byte* src, float* dst, int64_t blocks) {
  for (int64_t i = 0; i < blocks; ++i) {
    Block block;  // a copy, because `src` may have any alignment
    std::memcpy(&block, src + i * static_cast<int64_t>(sizeof block), sizeof block);
    decode_block(block, dst + i * kElements);
  }
}

constexpr FormatInfo kFormats[kNumWeightFormats] = {
    {WeightFormat::f32, "F32", 0, 1, 4},
    {WeightFormat::f16, "F16", 1, 1, 2},
    {WeightFormat::bf16, "BF16", 30, 1, 2},
    {WeightFormat::q4_0, "Q4_0", 2, 32, 18},
    {WeightFormat::q4_1, "Q4_1", 3, 32, 20},
    {WeightFormat::q5_0, "Q5_0", 6, 32, 22},
    {WeightFormat::q5_1, "Q5_1", 7, 32, 24},
    {WeightFormat::q8_0, "Q8_0", 8, 32, 34},
    {WeightFormat::q2_k, "Q2_K", 10, 256, 84},
    {WeightFormat::q3_k, "Q3_K", 11, 256, 110},
    {WeightFormat::q4_k, "Q4_K", 12, 256, 144},
    {WeightFormat::q5_k, "Q5_K", 13, 256, 176},
    {WeightFormat::q6_k, "Q6_K", 14, 256, 210},
    {WeightFormat::iq4_nl, "IQ4_NL", 20, 32, 18},
    {WeightFormat::iq4_xs, "IQ4_XS", 23, 256, 136},
    {WeightFormat::mxfp4, "MXFP4", 39, 32, 17},
    {WeightFormat::nvfp4, "NVFP4", 40, 64, 36},
};

constexpr Decoder kDecoders[kNumWeightFormats] = {
    decode_f32,
    decode_narrow_floats<f16_to_f32>,
    decode_narrow_floats<bf16_to_f32>,
    decode_blocks<BlockQ4_0, 32>,
    decode_blocks<BlockQ4_1, 32>,
    decode_blocks<BlockQ5_0, 32>,
    decode_blocks<BlockQ5_1, 32>,
    decode_blocks<BlockQ8_0, 32>,
    decode_blocks<BlockQ2K, 256>,
    decode_blocks<BlockQ3K, 256>,
    decode_blocks<BlockQ4K, 256>,
    decode_blocks<BlockQ5K, 256>,
    decode_blocks<BlockQ6K, 256>,
    decode_blocks<BlockIQ4NL, 32>,
    decode_blocks<BlockIQ4XS, 256>,
    decode_blocks<BlockMXFP4, 32>,
    decode_blocks<BlockNVFP4, 64>,
};

}  // namespace

std::span<const FormatInfo> all_formats() { return kFormats; }

const FormatInfo& info(WeightFormat format) {
  assert(static_cast<int>(format) < kNumWeightFormats);
  return kFormats[static_cast<int>(format)];
}

std::optional<WeightFormat> format_of_ggml_type(uint32_t ggml_type) {
  for (const FormatInfo& entry : kFormats) {
    if (entry.ggml_type == ggml_type) return entry.format;
  }
  return std::nullopt;
}

int64_t row_bytes(WeightFormat format, int64_t cols) {
  const FormatInfo& is = info(format);
  assert(cols % is.block_elements == 0);
  return cols / is.block_elements * is.block_bytes;
}

void dequantize(WeightFormat format, const void* src, float* dst, int64_t count) {
  const FormatInfo& is = info(format);
  assert(count >= 0 && count % is.block_elements == 0);
  if (count == 0) return;
  kDecoders[static_cast<int>(format)](static_cast<const std::byte*>(src), dst, count / is.block_elements);
}

}  // namespace imp
