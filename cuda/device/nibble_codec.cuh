#pragma once
#include "device/nibble_formats.cuh"
#include "device/packed_codecs.cuh"
#include "device/weight_ring.cuh"

namespace imp::cuda {

/// A block of 32 weights of 4 bits in a lane's registers, as the codecs of device/packed_codecs.cuh.
template <class Format>
struct CodecNibbles {
  static constexpr int kScale = Format::kScaleBytes;
  uint4 nibbles;
  uint32_t scale, super = 0;

  __device__ __forceinline__ void load(const uint8_t* codes, const uint8_t* scales, const uint8_t* supers, int64_t row,
                                       int block, int blocks_per_row) {
    nibbles = load_stream_16(codes + chunk_offset<16>(row, block, blocks_per_row, 0, 1));
    scale = load_stream_scale<kScale>(scales + row * padded_row_bytes(blocks_per_row, kScale) + block * kScale);
    if constexpr (Format::kSupers) super = load_stream_2(supers + (row * (blocks_per_row / 8) + block / 8) * 4);
  }
  __device__ __forceinline__ float dot(const ActivationBlock& x) const {
    constexpr float kUnit = 1.0f / (1 << Format::kShift);
    const uint32_t w[4] = {nibbles.x, nibbles.y, nibbles.z, nibbles.w};
    int low = 0, high = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) Format::dot(w[i], x.words[i], x.words[i + 4], low, high);
    if constexpr (Format::kSupers)
      return half_to_float(super) * static_cast<float>(static_cast<int8_t>(scale) * (low + high));
    const NibbleScales of = Format::scales(scale, half_to_float(super));
    if constexpr (Format::kPerSixteen)
      return of.s * kUnit * static_cast<float>(low) + of.second * kUnit * static_cast<float>(high);
    const float sum = of.s * kUnit * static_cast<float>(low + high);
    return Format::kMin ? sum + of.m * static_cast<float>(x.sum_low + x.sum_high) : sum;
  }
  __device__ __forceinline__ void values(float* out) const {
    const uint32_t w[4] = {nibbles.x, nibbles.y, nibbles.z, nibbles.w};
    const NibbleScales of = Format::scales(scale, half_to_float(super));
#pragma unroll
    for (int i = 0; i < 32; ++i) out[i] = value(Format::half(w[i / 4 % 4], i / 16), i % 4, of, i / 16);
  }
  /// Weight `index` of four, from the first or the second 16 of a block.
  __device__ __forceinline__ static float value(uint32_t four, int index, const NibbleScales& of, int half) {
    const int code = static_cast<int8_t>(four >> (index * 8)) >> Format::kShift;
    const float product = __fmul_rn(half ? of.second : of.s, static_cast<float>(code));
    return Format::kMin ? __fadd_rn(product, of.m) : product;
  }
};

/// The same for more than one token: codes and scales as they are multiplied, made once.
template <class Format>
struct CodesNibbles {
  int words[8];
  NibbleScales of;

  __device__ __forceinline__ CodesNibbles() = default;
  __device__ __forceinline__ explicit CodesNibbles(const CodecNibbles<Format>& codec)
      : of(Format::scales(codec.scale, half_to_float(codec.super))) {
    const uint32_t w[4] = {codec.nibbles.x, codec.nibbles.y, codec.nibbles.z, codec.nibbles.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) words[i] = static_cast<int>(Format::half(w[i % 4], i / 4));
    of.s *= 1.0f / (1 << Format::kShift);
    of.second *= 1.0f / (1 << Format::kShift);
  }
  __device__ __forceinline__ float dot(const ActivationBlock& x) const {
    int low = 0, high = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      low = __dp4a(words[i], x.words[i], low);
      high = __dp4a(words[i + 4], x.words[i + 4], high);
    }
    if constexpr (Format::kPerSixteen) return of.s * static_cast<float>(low) + of.second * static_cast<float>(high);
    const float sum = of.s * static_cast<float>(low + high);
    return Format::kMin ? sum + of.m * static_cast<float>(x.sum_low + x.sum_high) : sum;
  }
};

/// As the rings of device/weight_ring.cuh: 32 blocks of nibbles, their scales, their supers.
template <class Format>
struct RingNibbles {
  static constexpr int kScale = Format::kScaleBytes, kScales = 32 * kScale;
  static constexpr int kBytes = 512 + kScales + (Format::kSupers ? 16 : 0);
  static constexpr int kScaleLanes = kScales / 16;  // that copy scales of a whole strip; the next one copies its supers

  struct Whole {
    const uint8_t* codes;
    const uint8_t* rest;  // scales or supers, by lane
    __device__ __forceinline__ void start(const PackedView& w, int row, int strip, int lane) {
      const uint32_t at = static_cast<uint32_t>(row) * (w.cols / 1024) + strip;
      codes = w.codes + uint64_t{at} * 512 + lane * 16;
      rest = of_supers(lane) ? w.supers + uint64_t{at} * 16 : w.scales + uint64_t{at} * kScales + lane * 16;
    }
    __device__ __forceinline__ void copy(uint8_t* to, int lane) const {
      cp_async_16(to + lane * 16, codes);
      if (lane < kScaleLanes + Format::kSupers) cp_async_16(to + 512 + lane * 16, rest);
    }
    __device__ __forceinline__ void next(int lane) {
      codes += 512;
      rest += of_supers(lane) ? 16 : kScales;
    }
    __device__ __forceinline__ static bool of_supers(int lane) { return Format::kSupers && lane == kScaleLanes; }
  };

  __device__ __forceinline__ static void copy(uint8_t* to, const PackedView& w, int row, int strip, int lane) {
    const StripPlace place(w, row, strip);
    if (lane >= place.width) return;
    cp_async_16(to + lane * 16, w.codes + uint64_t{place.at} * 16 + lane * 16);
    const uint64_t scales = row * padded_row_bytes(w.cols / 32, kScale) + strip * kScales;
    if (lane * 16 < place.width * kScale) cp_async_16(to + 512 + lane * 16, w.scales + scales + lane * 16);
    if (Format::kSupers && lane < place.width / 8)
      cp_async_4(to + 512 + kScales + lane * 4, w.supers + uint64_t{place.at / 8} * 4 + lane * 4);
  }
  __device__ __forceinline__ static CodecNibbles<Format> read(const uint8_t* from, int lane) {
    CodecNibbles<Format> codec;
    codec.nibbles = *reinterpret_cast<const uint4*>(from + lane * 16);
    codec.scale = read_scale<kScale>(from + 512 + lane * kScale);
    if constexpr (Format::kSupers)
      codec.super = *reinterpret_cast<const uint16_t*>(from + 512 + kScales + lane / 8 * 4);
    return codec;
  }
};

template <class Format>
struct RingNibblesOfMany : RingNibbles<Format> {
  __device__ __forceinline__ static CodesNibbles<Format> read(const uint8_t* from, int lane) {
    return CodesNibbles<Format>(RingNibbles<Format>::read(from, lane));
  }
};

}  // namespace imp::cuda
