#pragma once
#include "device/codec_few_bits.cuh"
#include "device/ring_five_bits.cuh"

namespace imp::cuda {

// Rings of the 2- and 3-bit layouts.

/// Whole strips of kCodes bytes of codes, the scales and the supers behind them: one instruction of 16 bytes a lane.
template <int kCodes>
struct JoinedStrips {
  JoinedCopy<kCodes / 16, kCodes / 16 + 4, kCodes / 16 + 5> all;
  __device__ __forceinline__ void start(const PackedView& w, int row, int strip, int lane) {
    const uint64_t at = static_cast<uint32_t>(row) * (w.cols / 1024) + strip;
    all.start(w.codes + at * kCodes, w.scales + at * 64, w.supers + at * 16, lane);
  }
  __device__ __forceinline__ void copy(uint8_t* to, int lane) const { all.copy(to, lane); }
  __device__ __forceinline__ void next(int lane) { all.next(lane, kCodes, 64, 16); }
};

struct RingQ2K {
  static constexpr int kScales = 256, kSupers = kScales + 64, kBytes = kSupers + 16;
  using Whole = JoinedStrips<256>;
  __device__ __forceinline__ static void copy(uint8_t* to, const PackedView& w, int row, int strip, int lane) {
    const StripPlace place(w, row, strip);
    if (lane >= place.width) return;
    cp_async_8(to + lane * 8, w.codes + uint64_t{place.at} * 8 + lane * 8);
    copy_scales<true>(to + kScales, w, place, lane);
  }
  __device__ __forceinline__ static CodecQ2K read(const uint8_t* from, int lane) {
    CodecQ2K codec;
    codec.codes = *reinterpret_cast<const uint2*>(from + lane * 8);
    codec.scale_min = *reinterpret_cast<const uint16_t*>(from + kScales + lane * 2);
    codec.super = *reinterpret_cast<const uint32_t*>(from + kSupers + lane / 8 * 4);
    return codec;
  }
};

struct RingQ3K {
  static constexpr int kPlane = 256, kScales = kPlane + 128, kSupers = kScales + 64, kBytes = kSupers + 16;
  using Whole = JoinedStrips<384>;
  __device__ __forceinline__ static void copy(uint8_t* to, const PackedView& w, int row, int strip, int lane) {
    const StripPlace place(w, row, strip);
    if (lane >= place.width) return;
    const uint8_t* codes = w.codes + uint64_t{place.at} * 12;
    cp_async_8(to + lane * 8, codes + lane * 8);
    cp_async_4(to + kPlane + lane * 4, codes + place.width * 8 + lane * 4);
    copy_scales<true>(to + kScales, w, place, lane);
  }
  __device__ __forceinline__ static CodecQ3K read(const uint8_t* from, int lane) {
    CodecQ3K codec;
    codec.fields = *reinterpret_cast<const uint2*>(from + lane * 8);
    codec.plane = *reinterpret_cast<const uint32_t*>(from + kPlane + lane * 4);
    codec.scale_pair = *reinterpret_cast<const uint16_t*>(from + kScales + lane * 2);
    codec.d = *reinterpret_cast<const uint16_t*>(from + kSupers + lane / 8 * 4);
    return codec;
  }
};

}  // namespace imp::cuda
