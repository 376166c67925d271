#pragma once
#include <cuda_bf16.h>

#include "device/cp_async.cuh"
#include "device/packed_codecs.cuh"
#include "linear/packed_weight.h"

namespace imp::cuda {

// One ring a packed layout: how a warp copies a strip of a row (kBytes of shared memory) without registers, and how a
// lane gets its part back. A strip is 32 blocks of integer codes, or 2 x 32 chunks of 16 bytes of float rows. What lies
// in shared memory is ordered as in global memory: 16 bytes a lane, so that no bank is met twice.

/// Where a strip of integer codes is: its first block, counted through the whole weight, and its blocks.
struct StripPlace {
  uint32_t at;
  int width;
  bool aligned;  // rows are whole strips
  bool odd;      // rows have an odd number of blocks: scales lie on 2 bytes only
  __device__ __forceinline__ StripPlace(const PackedView& w, int row, int strip) {
    const int blocks = w.cols / 32;
    at = static_cast<uint32_t>(row) * blocks + strip * 32;
    width = min(32, blocks - strip * 32);
    aligned = blocks % 32 == 0;
    odd = blocks % 2 != 0;
  }
};

/// Scales, 2 bytes a block, and (where kSupers) the 4 bytes that each 8 blocks share, behind them. 16 bytes a copy
/// wherever rows allow it: smaller ones go through L1, whose lines run out with many of them in flight.
template <bool kSupers>
__device__ __forceinline__ void copy_scales(uint8_t* to, const PackedView& w, const StripPlace& place, int lane) {
  const uint8_t* scales = w.scales + uint64_t{place.at} * 2;
  const uint8_t* supers = kSupers ? w.supers + uint64_t{place.at / 8} * 4 : nullptr;
  if (place.aligned) {
    const bool is_super = kSupers && lane == 4;
    if (lane < 4 || is_super) cp_async_16(to + lane * 16, is_super ? supers : scales + lane * 16);
    return;
  }
  if (lane >= place.width) return;
  if (place.odd) {
    *reinterpret_cast<uint16_t*>(to + lane * 2) = load_stream_2(scales + lane * 2);
  } else if (lane % 2 == 0) {
    cp_async_4(to + lane * 2, scales + lane * 2);
  }
  if (kSupers && lane < place.width / 8) cp_async_4(to + 64 + lane * 4, supers + lane * 4);
}

/// A lane's pointers into a row of whole strips, moved from strip to strip.
template <int kStripCodes, bool kSupers>
struct WholeStrips {
  const uint8_t* codes;
  const uint8_t* scales;  // lanes 0 to 3; lane 4 copies the supers
  __device__ __forceinline__ void start(const PackedView& w, int row, int strip, int lane) {
    const uint32_t at = static_cast<uint32_t>(row) * (w.cols / 1024) + strip;
    codes = w.codes + uint64_t{at} * kStripCodes + lane * 16;
    scales = kSupers && lane == 4 ? w.supers + uint64_t{at} * 16 : w.scales + uint64_t{at} * 64 + lane * 16;
  }
  __device__ __forceinline__ void copy_scales(uint8_t* to, int lane) const {
    if (lane < (kSupers ? 5 : 4)) cp_async_16(to + lane * 16, scales);
  }
  __device__ __forceinline__ void next(int lane) {
    codes += kStripCodes;
    scales += kSupers && lane == 4 ? 16 : 64;
  }
};

struct RingQ8 {
  static constexpr int kBytes = 1024 + 64;
  struct Whole : WholeStrips<1024, false> {
    __device__ __forceinline__ void copy(uint8_t* to, int lane) const {
      cp_async_16(to + lane * 16, codes);
      cp_async_16(to + 512 + lane * 16, codes + 512);
      copy_scales(to + 1024, lane);
    }
  };
  __device__ __forceinline__ static void copy(uint8_t* to, const PackedView& w, int row, int strip, int lane) {
    const StripPlace place(w, row, strip);
    if (lane >= place.width) return;
    const uint8_t* codes = w.codes + uint64_t{place.at} * 32 + lane * 16;
    cp_async_16(to + lane * 16, codes);
    cp_async_16(to + 512 + lane * 16, codes + place.width * 16);
    copy_scales<false>(to + 1024, w, place, lane);
  }
  __device__ __forceinline__ static CodecQ8 read(const uint8_t* from, int lane) {
    CodecQ8 codec;
    codec.low = *reinterpret_cast<const uint4*>(from + lane * 16);
    codec.high = *reinterpret_cast<const uint4*>(from + 512 + lane * 16);
    codec.d = *reinterpret_cast<const uint16_t*>(from + 1024 + lane * 2);
    return codec;
  }
};

struct RingQ4K {
  static constexpr int kBytes = 512 + 64 + 16;
  struct Whole : WholeStrips<512, true> {
    __device__ __forceinline__ void copy(uint8_t* to, int lane) const {
      cp_async_16(to + lane * 16, codes);
      copy_scales(to + 512, lane);
    }
  };
  __device__ __forceinline__ static void copy(uint8_t* to, const PackedView& w, int row, int strip, int lane) {
    const StripPlace place(w, row, strip);
    if (lane >= place.width) return;
    cp_async_16(to + lane * 16, w.codes + uint64_t{place.at} * 16 + lane * 16);
    copy_scales<true>(to + 512, w, place, lane);
  }
  __device__ __forceinline__ static CodecQ4K read(const uint8_t* from, int lane) {
    CodecQ4K codec;
    codec.nibbles = *reinterpret_cast<const uint4*>(from + lane * 16);
    codec.scale_min = *reinterpret_cast<const uint16_t*>(from + 512 + lane * 2);
    codec.super = *reinterpret_cast<const uint32_t*>(from + 576 + lane / 8 * 4);
    return codec;
  }
};

struct RingQ6K {
  static constexpr int kBytes = 512 + 256 + 64 + 16;
  struct Whole : WholeStrips<768, true> {
    __device__ __forceinline__ void copy(uint8_t* to, int lane) const {
      cp_async_16(to + lane * 16, codes);
      if (lane < 16) cp_async_16(to + 512 + lane * 16, codes + 512);
      copy_scales(to + 768, lane);
    }
  };
  __device__ __forceinline__ static void copy(uint8_t* to, const PackedView& w, int row, int strip, int lane) {
    const StripPlace place(w, row, strip);
    if (lane >= place.width) return;
    const uint8_t* codes = w.codes + uint64_t{place.at} * 24;
    cp_async_16(to + lane * 16, codes + lane * 16);
    cp_async_8(to + 512 + lane * 8, codes + place.width * 16 + lane * 8);
    copy_scales<true>(to + 768, w, place, lane);
  }
  __device__ __forceinline__ static CodecQ6K read(const uint8_t* from, int lane) {
    CodecQ6K codec;
    codec.nibbles = *reinterpret_cast<const uint4*>(from + lane * 16);
    codec.pairs = *reinterpret_cast<const uint2*>(from + 512 + lane * 8);
    codec.scale_pair = *reinterpret_cast<const uint16_t*>(from + 768 + lane * 2);
    codec.d = *reinterpret_cast<const uint16_t*>(from + 832 + lane / 8 * 4);
    return codec;
  }
};

/// Rows of fp32, f16 or bf16: lane l has chunks l and 32 + l of the strip's 64.
template <WeightFormat kFormat>
struct RingRows {
  static constexpr int kBytes = 1024;
  static constexpr int kPer = kFormat == WeightFormat::f32 ? 4 : 8;  // weights in 16 bytes
  struct Whole {
    const uint8_t* codes;
    __device__ __forceinline__ void start(const PackedView& w, int row, int strip, int lane) {
      codes =
          w.codes + static_cast<uint64_t>(static_cast<uint32_t>(row)) * (w.cols / kPer * 16) + strip * 1024 + lane * 16;
    }
    __device__ __forceinline__ void copy(uint8_t* to, int lane) const {
      cp_async_16(to + lane * 16, codes);
      cp_async_16(to + 512 + lane * 16, codes + 512);
    }
    __device__ __forceinline__ void next(int) { codes += 1024; }
  };
  struct Values {
    uint4 chunks[2];
    __device__ __forceinline__ void to_floats(float (&out)[2 * kPer]) const {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const uint32_t w[4] = {chunks[c].x, chunks[c].y, chunks[c].z, chunks[c].w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if constexpr (kFormat == WeightFormat::f32) {
            out[c * 4 + i] = __uint_as_float(w[i]);
          } else if constexpr (kFormat == WeightFormat::bf16) {
            out[c * 8 + i * 2] = __uint_as_float(w[i] << 16);
            out[c * 8 + i * 2 + 1] = __uint_as_float(w[i] & 0xffff0000u);
          } else {
            const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&w[i]));
            out[c * 8 + i * 2] = pair.x, out[c * 8 + i * 2 + 1] = pair.y;
          }
        }
      }
    }
  };
  /// Chunks past the end of the row become zeros.
  __device__ __forceinline__ static void copy(uint8_t* to, const PackedView& w, int row, int strip, int lane) {
    const int chunks = w.cols / kPer, chunk = strip * 64 + lane;
    const uint8_t* from = w.codes + static_cast<uint64_t>(static_cast<uint32_t>(row)) * (chunks * 16) + chunk * 16;
    cp_async_16(to + lane * 16, chunk < chunks ? from : w.codes, chunk < chunks);
    cp_async_16(to + 512 + lane * 16, chunk + 32 < chunks ? from + 512 : w.codes, chunk + 32 < chunks);
  }
  __device__ __forceinline__ static Values read(const uint8_t* from, int lane) {
    return {
        {*reinterpret_cast<const uint4*>(from + lane * 16), *reinterpret_cast<const uint4*>(from + 512 + lane * 16)}};
  }
};

}  // namespace imp::cuda
