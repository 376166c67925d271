// Rows of a packed weight as bf16 (or f16, for gemm.cublas_fp16_acc): the scratch that prefill products read.
//
// Four threads a block of 32 weights, 8 weights each: a warp reads 128 contiguous bytes a chunk of codes and writes 512
// contiguous bytes. A thread does the same columns of kRows rows, whose loads are in flight together; alone, from and
// to memory, that moves 3.5 to 3.9 TB/s of an H200, where a plain copy moves 3.8 to 4.1. Bytes moved, a
// weight: those of the packed form (1.06 for Q8_0, 0.58 for Q4_K, 0.83 for Q6_K) and 2 written, which stay in L2 where
// the slice is small enough.
#include <algorithm>
#include <type_traits>

#include "device/pdl.cuh"
#include "device/vector8.cuh"
#include "linear/dequantize.h"
#include "linear/layout_codec.cuh"

namespace imp::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kRows = 2;

__device__ __forceinline__ uint32_t byte_of(const uint2& bytes, int i) {
  return ((i < 4 ? bytes.x : bytes.y) >> (i % 4 * 8)) & 255;
}

/// A fourth of a block, one struct a codec: load() fetches what weights 8 * part .. 8 * part + 7 need, values() makes
/// the numbers that the codec makes of them, in the same operations.
template <class Codec>
struct Part;

template <>
struct Part<CodecQ8> {
  uint2 codes;
  uint16_t d;

  __device__ __forceinline__ void load(const PackedView& w, int64_t row, int block, int part, int blocks_per_row) {
    codes = load_stream_8(w.codes + chunk_offset<16>(row, block, blocks_per_row, part / 2, 2) + part % 2 * 8);
    d = load_stream_2(w.scales + (row * blocks_per_row + block) * 2);
  }
  __device__ __forceinline__ void values(int, float (&out)[8]) const {
    const float s = __half2float(__ushort_as_half(d));
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = s * static_cast<float>(static_cast<int8_t>(byte_of(codes, i)));
  }
};

template <>
struct Part<CodecQ4K> {
  uint2 nibbles;
  uint16_t scale_min;
  uint32_t super;

  __device__ __forceinline__ void load(const PackedView& w, int64_t row, int block, int part, int blocks_per_row) {
    nibbles = load_stream_8(w.codes + chunk_offset<16>(row, block, blocks_per_row, 0, 1) + part % 2 * 8);
    scale_min = load_stream_2(w.scales + (row * blocks_per_row + block) * 2);
    super = load_stream_4(w.supers + (row * (blocks_per_row / 8) + block / 8) * 4);
  }
  __device__ __forceinline__ void values(int part, float (&out)[8]) const {
    const float2 d = __half22float2(*reinterpret_cast<const __half2*>(&super));
    const float s = d.x * static_cast<float>(scale_min & 255), m = d.y * static_cast<float>(scale_min >> 8);
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = scaled(s, (byte_of(nibbles, i) >> (part / 2 * 4)) & 15, m);
  }
};

template <>
struct Part<CodecQ6K> {
  uint2 nibbles, pairs;
  uint16_t scale_pair, d;

  __device__ __forceinline__ void load(const PackedView& w, int64_t row, int block, int part, int blocks_per_row) {
    const int strip = block / 32, lane = block % 32;
    const int width = min(32, blocks_per_row - strip * 32);
    const uint8_t* base = w.codes + (row * blocks_per_row + strip * 32) * 24;
    nibbles = load_stream_8(base + lane * 16 + part % 2 * 8);
    pairs = load_stream_8(base + width * 16 + lane * 8);
    scale_pair = load_stream_2(w.scales + (row * blocks_per_row + block) * 2);
    d = load_stream_2(w.supers + (row * (blocks_per_row / 8) + block / 8) * 4);
  }
  __device__ __forceinline__ void values(int part, float (&out)[8]) const {
    const int scale = static_cast<int8_t>(part < 2 ? scale_pair & 255 : scale_pair >> 8);
    const float s = __half2float(__ushort_as_half(d)) * static_cast<float>(scale);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint32_t low = (byte_of(nibbles, i) >> (part / 2 * 4)) & 15, high = (byte_of(pairs, i) >> (part * 2)) & 3;
      out[i] = s * static_cast<float>(static_cast<int>(low | (high << 4)) - 32);
    }
  }
};

template <class Format>
struct Part<CodecNibbles<Format>> {
  uint2 nibbles;
  uint32_t scale, super = 0;

  __device__ __forceinline__ void load(const PackedView& w, int64_t row, int block, int part, int blocks_per_row) {
    constexpr int kScale = Format::kScaleBytes;
    nibbles = load_stream_8(w.codes + chunk_offset<16>(row, block, blocks_per_row, 0, 1) + part % 2 * 8);
    scale = load_stream_scale<kScale>(w.scales + row * padded_row_bytes(blocks_per_row, kScale) + block * kScale);
    if constexpr (Format::kSupers) super = load_stream_2(w.supers + (row * (blocks_per_row / 8) + block / 8) * 4);
  }
  __device__ __forceinline__ void values(int part, float (&out)[8]) const {
    const NibbleScales of = Format::scales(scale, half_to_float(super));
    const uint32_t fours[2] = {Format::half(nibbles.x, part / 2), Format::half(nibbles.y, part / 2)};
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = CodecNibbles<Format>::value(fours[i / 4], i % 4, of, part / 2);
  }
};

/// 8 of 32 weights as FiveBits has them.
struct FiveBitsPart {
  uint2 nibbles;
  uint32_t plane;

  __device__ __forceinline__ int code(int part, int i) const {
    const uint32_t nibble = (byte_of(nibbles, i) >> (part / 2 * 4)) & 15;
    const uint32_t bit = plane >> (i % 4 * 8 + (part % 2 * 2 + i / 4) * 2 + (part < 2)) & 1;
    return static_cast<int>(part < 2 ? nibble | (bit << 4) : (nibble << 1) | bit);
  }
};

template <>
struct Part<CodecQ5K> {
  FiveBitsPart codes;
  uint16_t scale_min;
  uint32_t super;

  __device__ __forceinline__ void load(const PackedView& w, int64_t row, int block, int part, int blocks_per_row) {
    const int strip = block / 32, lane = block % 32;
    const int width = min(32, blocks_per_row - strip * 32);
    const uint8_t* base = w.codes + (row * blocks_per_row + strip * 32) * 20;
    codes.nibbles = load_stream_8(base + lane * 16 + part % 2 * 8);
    codes.plane = load_stream_4(base + width * 16 + lane * 4);
    scale_min = load_stream_2(w.scales + (row * blocks_per_row + block) * 2);
    super = load_stream_4(w.supers + (row * (blocks_per_row / 8) + block / 8) * 4);
  }
  __device__ __forceinline__ void values(int part, float (&out)[8]) const {
    const float2 d = __half22float2(*reinterpret_cast<const __half2*>(&super));
    const float s = d.x * static_cast<float>(scale_min & 255), m = d.y * static_cast<float>(scale_min >> 8);
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = scaled(s, codes.code(part, i), m);
  }
};

template <bool kMin>
struct Part<CodecQ5<kMin>> {
  static constexpr int kScaleBytes = CodecQ5<kMin>::kScaleBytes;
  FiveBitsPart codes;
  uint32_t scale;

  __device__ __forceinline__ void load(const PackedView& w, int64_t row, int block, int part, int blocks_per_row) {
    codes.nibbles = load_stream_8(w.codes + (row * blocks_per_row + block) * 16 + part % 2 * 8);
    codes.plane = load_stream_4(w.supers + row * padded_row_bytes(blocks_per_row, 4) + block * 4);
    const uint8_t* at = w.scales + row * padded_row_bytes(blocks_per_row, kScaleBytes) + block * kScaleBytes;
    scale = kMin ? load_stream_4(at) : load_stream_2(at);
  }
  __device__ __forceinline__ void values(int part, float (&out)[8]) const {
    const float2 sm = __half22float2(*reinterpret_cast<const __half2*>(&scale));
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int q = codes.code(part, i);
      out[i] = kMin ? scaled(sm.x, q, -sm.y) : sm.x * static_cast<float>(q - 16);
    }
  }
};

template <>
struct Part<CodecQ2K> {
  uint2 codes;
  uint16_t scale_min;
  uint32_t super;

  __device__ __forceinline__ void load(const PackedView& w, int64_t row, int block, int, int blocks_per_row) {
    codes = load_stream_8(w.codes + (row * blocks_per_row + block) * 8);
    scale_min = load_stream_2(w.scales + (row * blocks_per_row + block) * 2);
    super = load_stream_4(w.supers + (row * (blocks_per_row / 8) + block / 8) * 4);
  }
  __device__ __forceinline__ void values(int part, float (&out)[8]) const {
    const float2 d = __half22float2(*reinterpret_cast<const __half2*>(&super));
    const int sm = scale_min >> (part / 2 * 8);
    const float s = d.x * static_cast<float>(sm & 15), m = d.y * static_cast<float>(sm >> 4 & 15);
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = scaled(s, static_cast<int>(byte_of(codes, i) >> (part * 2) & 3), m);
  }
};

template <>
struct Part<CodecQ3K> {
  CodecQ3K codec;

  __device__ __forceinline__ void load(const PackedView& w, int64_t row, int block, int, int blocks_per_row) {
    codec.load(w.codes, w.scales, w.supers, row, block, blocks_per_row);
  }
  __device__ __forceinline__ void values(int part, float (&out)[8]) const {
    const int scale = static_cast<int8_t>(part < 2 ? codec.scale_pair & 255 : codec.scale_pair >> 8);
    const float s = __half2float(__ushort_as_half(codec.d)) * static_cast<float>(scale);
    const int shift = part * 2 - part % 2;  // 0, 1, 4, 5
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint32_t code = codec.word(part, i / 4) >> (i % 4 * 8 + shift) & 7;
      out[i] = s * static_cast<float>(static_cast<int>(code) - 4);
    }
  }
};

template <class Codec, class Out>
__global__ __launch_bounds__(kThreads) void dequantize_rows_kernel(PackedView w, int64_t first_row, int rows, Out* out,
                                                                   float scale) {
  pdl_trigger();
  pdl_wait();
  const int at = blockIdx.y * blockDim.x + threadIdx.x, block = at / 4, part = at % 4;
  const int blocks_per_row = w.cols / 32;
  if (block >= blocks_per_row) return;
  const int row = blockIdx.x * kRows;
  const auto convert = [&](const Part<Codec>& weights, int r) {
    float values[8];
    weights.values(part, values);
#pragma unroll
    for (float& value : values) value *= scale;
    store_8(out + static_cast<int64_t>(row + r) * w.cols + at * 8, values);
  };
  if (row + kRows <= rows) {
    Part<Codec> parts[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) parts[r].load(w, first_row + row + r, block, part, blocks_per_row);
#pragma unroll
    for (int r = 0; r < kRows; ++r) convert(parts[r], r);
    return;
  }
  for (int r = 0; row + r < rows; ++r) {
    Part<Codec> weights;
    weights.load(w, first_row + row + r, block, part, blocks_per_row);
    convert(weights, r);
  }
}

template <class Out>
const char* name_of(const char* bf16, const char* f16) {
  return std::is_same_v<Out, __half> ? f16 : bf16;
}

// Rows of numbers: a thread converts kEach, 8 where the addresses allow it.
template <class Number, int kEach, class Out>
__global__ __launch_bounds__(kThreads) void convert_rows_kernel(const Number* in, int64_t groups, Out* out) {
  pdl_trigger();
  pdl_wait();
  const int64_t group = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (group >= groups) return;
  if constexpr (kEach == 1) {
    out[group] = Out(static_cast<float>(in[group]));
  } else {
    float values[8];
    load_8(in + group * 8, values);
    store_8(out + group * 8, values);
  }
}

template <class Number, class Out>
void launch_rows(const WeightView& weight, int64_t first_row, int64_t rows, Out* out, const LaunchContext& context) {
  const int64_t total = rows * weight.cols;
  const auto* in = static_cast<const Number*>(weight.data) + first_row * weight.cols;
  const bool vectors = weight.cols % 8 == 0 && aligned_16(in) && aligned_16(out);
  const int64_t groups = vectors ? total / 8 : total;
  launch(context, name_of<Out>("rows_to_bf16", "rows_to_f16"),
         vectors ? convert_rows_kernel<Number, 8, Out> : convert_rows_kernel<Number, 1, Out>,
         static_cast<unsigned>((groups + kThreads - 1) / kThreads), kThreads, 0, in, groups, out);
}

template <class Codec, class Out>
void launch_packed(const WeightView& weight, int64_t first_row, int64_t rows, Out* out, const LaunchContext& context) {
  const auto groups = static_cast<unsigned>(weight.cols / 8);
  const unsigned threads = std::min<unsigned>(kThreads, (groups + 31) / 32 * 32);
  const dim3 grid(static_cast<unsigned>((rows + kRows - 1) / kRows), (groups + threads - 1) / threads);
  launch(context, name_of<Out>("dequantize_bf16", "dequantize_f16_rows"), dequantize_rows_kernel<Codec, Out>, grid,
         threads, 0, packed_view(weight), first_row, static_cast<int>(rows), out, weight.scale);
}

template <class Out>
void dequantize_rows(const WeightView& weight, int64_t first_row, int64_t rows, Out* out,
                     const LaunchContext& context) {
  if (rows == 0) return;
  const auto layout = static_cast<PackedLayout>(weight.layout);
  if (layout == PackedLayout::kRows)
    return with_number(weight.format,
                       [&](auto number) { launch_rows<decltype(number)>(weight, first_row, rows, out, context); });
  with_codec(layout, [&](auto codec) { launch_packed<decltype(codec)>(weight, first_row, rows, out, context); });
}

}  // namespace

void dequantize_bf16(const WeightView& weight, int64_t first_row, int64_t rows, void* out,
                     const LaunchContext& context) {
  dequantize_rows(weight, first_row, rows, static_cast<__nv_bfloat16*>(out), context);
}

void dequantize_f16_rows(const WeightView& weight, int64_t first_row, int64_t rows, void* out,
                         const LaunchContext& context) {
  dequantize_rows(weight, first_row, rows, static_cast<__half*>(out), context);
}

}  // namespace imp::cuda
