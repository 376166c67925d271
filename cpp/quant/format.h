#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace imp {

/// How a weight is stored. Names and layouts are those of GGUF (`ggml type`).
enum class WeightFormat : uint8_t {
  f32,
  f16,
  bf16,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  iq4_nl,
  iq4_xs,
  mxfp4,
  nvfp4,
};
inline constexpr int kNumWeightFormats = 17;

struct FormatInfo {
  WeightFormat format;
  std::string_view name;  // as tools print it: "Q4_K"
  uint32_t ggml_type;     // the id in a GGUF file
  int block_elements;     // weights in one block; 1 for the float formats
  int block_bytes;
};

/// Every format, in enum order.
std::span<const FormatInfo> all_formats();
const FormatInfo& info(WeightFormat format);
std::optional<WeightFormat> format_of_ggml_type(uint32_t ggml_type);

/// Bytes of one row of `cols` weights; `cols` must be a multiple of the block.
int64_t row_bytes(WeightFormat format, int64_t cols);

/// dst[i] = the i-th weight of `src`, bit for bit what the `gguf` Python package computes in fp32.
/// `count` is a multiple of the block. Any alignment of `src`.
void dequantize(WeightFormat format, const void* src, float* dst, int64_t count);

}  // namespace imp
