#pragma once
#include "device/codec_five_bits.cuh"
#include "device/weight_ring.cuh"

namespace imp::cuda {

// Rings of the 5-bit layouts. What is not nibbles lies together in shared memory, and one instruction copies it.

/// 16 bytes a lane from up to three places: kFirst lanes from the first, up to lane kSecond from the next, and so on.
template <int kFirst, int kSecond, int kLanes>
struct JoinedCopy {
  const uint8_t* from;
  __device__ __forceinline__ void start(const uint8_t* first, const uint8_t* second, const uint8_t* third, int lane) {
    from = lane < kFirst    ? first + lane * 16
           : lane < kSecond ? second + (lane - kFirst) * 16
                            : third + (lane - kSecond) * 16;
  }
  __device__ __forceinline__ void copy(uint8_t* to, int lane) const {
    if (lane < kLanes) cp_async_16(to + lane * 16, from);
  }
  /// To the next strip, so many bytes further in each place.
  __device__ __forceinline__ void next(int lane, int first, int second, int third) {
    from += lane < kFirst ? first : lane < kSecond ? second : third;
  }
};

struct RingQ5K {
  static constexpr int kPlane = 512, kScales = kPlane + 128, kSupers = kScales + 64, kBytes = kSupers + 16;
  struct Whole {
    const uint8_t* codes;
    JoinedCopy<8, 12, 13> rest;
    __device__ __forceinline__ void start(const PackedView& w, int row, int strip, int lane) {
      const uint64_t at = static_cast<uint32_t>(row) * (w.cols / 1024) + strip;
      codes = w.codes + at * 640 + lane * 16;
      rest.start(w.codes + at * 640 + 512, w.scales + at * 64, w.supers + at * 16, lane);
    }
    __device__ __forceinline__ void copy(uint8_t* to, int lane) const {
      cp_async_16(to + lane * 16, codes);
      rest.copy(to + kPlane, lane);
    }
    __device__ __forceinline__ void next(int lane) {
      codes += 640;
      rest.next(lane, 640, 64, 16);
    }
  };
  __device__ __forceinline__ static void copy(uint8_t* to, const PackedView& w, int row, int strip, int lane) {
    const StripPlace place(w, row, strip);
    if (lane >= place.width) return;
    const uint8_t* codes = w.codes + uint64_t{place.at} * 20;
    cp_async_16(to + lane * 16, codes + lane * 16);
    cp_async_4(to + kPlane + lane * 4, codes + place.width * 16 + lane * 4);
    copy_scales<true>(to + kScales, w, place, lane);
  }
  __device__ __forceinline__ static CodecQ5K read(const uint8_t* from, int lane) {
    CodecQ5K codec;
    codec.codes.nibbles = *reinterpret_cast<const uint4*>(from + lane * 16);
    codec.codes.plane = *reinterpret_cast<const uint32_t*>(from + kPlane + lane * 4);
    codec.scale_min = *reinterpret_cast<const uint16_t*>(from + kScales + lane * 2);
    codec.super = *reinterpret_cast<const uint32_t*>(from + kSupers + lane / 8 * 4);
    return codec;
  }
};

template <bool kMin>
struct RingQ5 {
  static constexpr int kScaleBytes = CodecQ5<kMin>::kScaleBytes;
  static constexpr int kPlane = 512, kScales = kPlane + 128, kBytes = kScales + 32 * kScaleBytes;
  struct Whole {
    const uint8_t* codes;
    JoinedCopy<8, 8 + 2 * kScaleBytes, 8 + 2 * kScaleBytes> rest;
    __device__ __forceinline__ void start(const PackedView& w, int row, int strip, int lane) {
      const uint64_t at = static_cast<uint32_t>(row) * (w.cols / 1024) + strip;
      codes = w.codes + at * 512 + lane * 16;
      rest.start(w.supers + at * 128, w.scales + at * (32 * kScaleBytes), nullptr, lane);
    }
    __device__ __forceinline__ void copy(uint8_t* to, int lane) const {
      cp_async_16(to + lane * 16, codes);
      rest.copy(to + kPlane, lane);
    }
    __device__ __forceinline__ void next(int lane) {
      codes += 512;
      rest.next(lane, 128, 32 * kScaleBytes, 0);
    }
  };
  /// A row's scales and planes end with what fills up 16 bytes, so that nothing smaller is copied.
  __device__ __forceinline__ static void copy(uint8_t* to, const PackedView& w, int row, int strip, int lane) {
    const StripPlace place(w, row, strip);
    if (lane >= place.width) return;
    cp_async_16(to + lane * 16, w.codes + uint64_t{place.at} * 16 + lane * 16);
    const int blocks = w.cols / 32, at = lane * 16;
    if (at < place.width * 4)
      cp_async_16(to + kPlane + at, w.supers + row * padded_row_bytes(blocks, 4) + strip * 128 + at);
    if (at < place.width * kScaleBytes)
      cp_async_16(to + kScales + at,
                  w.scales + row * padded_row_bytes(blocks, kScaleBytes) + strip * (32 * kScaleBytes) + at);
  }
  __device__ __forceinline__ static CodecQ5<kMin> read(const uint8_t* from, int lane) {
    CodecQ5<kMin> codec;
    codec.codes.nibbles = *reinterpret_cast<const uint4*>(from + lane * 16);
    codec.codes.plane = *reinterpret_cast<const uint32_t*>(from + kPlane + lane * 4);
    if constexpr (kMin) {
      codec.scale = *reinterpret_cast<const uint32_t*>(from + kScales + lane * 4);
    } else {
      codec.scale = *reinterpret_cast<const uint16_t*>(from + kScales + lane * 2);
    }
    return codec;
  }
};

}  // namespace imp::cuda
