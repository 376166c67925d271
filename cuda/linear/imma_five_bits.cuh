#pragma once
#include "linear/imma_formats.cuh"

namespace imp::cuda {

/// The codes of FiveBits (device/codec_five_bits.cuh) in a stage: a row's nibbles, then its blocks' words of the plane.
template <int kBlocks>
struct FiveBitsInSlab {
  static constexpr int kCodeBytes = 16, kPairBytes = 4;
  static constexpr int kCodeRow = odd_rows(kBlocks * 20), kPlane = kBlocks * 16;

  __device__ static int code_offset(int row, int lane) { return (row + lane % 16) * kCodeRow; }
  /// What this lane has of a block in rows lane / 4 and 8 below: weights 4 (lane % 4) .. + 3 and the same + 16, as
  /// nibbles, and the other bits of both: those of the former at bit 1, of the latter at bit 0 of each byte.
  __device__ static void load(uint32_t (&nibbles)[2], uint32_t (&bits)[2], uint32_t codes, uint32_t rows, int block,
                              int lane) {
    load_rows_x2(nibbles[0], nibbles[1], codes + block * 16);
    const uint32_t plane = rows + lane / 4 * kCodeRow + kPlane + block * 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) bits[half] = load_shared_word(plane + half * 8 * kCodeRow) >> (lane % 4 * 2);
  }
  /// 0 to 31.
  __device__ static void load_unsigned(uint32_t (&a)[4], uint32_t codes, uint32_t rows, int block, int lane) {
    uint32_t nibbles[2], bits[2];
    load(nibbles, bits, codes, rows, block, lane);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      a[half] = (nibbles[half] & 0x0f0f0f0fu) | ((bits[half] << 3) & 0x10101010u);
      a[half + 2] = ((nibbles[half] >> 3) & 0x1e1e1e1eu) | (bits[half] & 0x01010101u);
    }
  }
  /// 8 * (q - 16), which is 8 * q with the top bit turned over.
  __device__ static void load_signed(uint32_t (&a)[4], uint32_t codes, uint32_t rows, int block, int lane) {
    uint32_t nibbles[2], bits[2];
    load(nibbles, bits, codes, rows, block, lane);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      a[half] = (((nibbles[half] << 3) & 0x78787878u) | ((bits[half] << 6) & 0x80808080u)) ^ 0x80808080u;
      a[half + 2] = ((nibbles[half] & 0xf0f0f0f0u) | ((bits[half] << 3) & 0x08080808u)) ^ 0x80808080u;
    }
  }
};

template <int kBlocks>
struct FormatQ5K : FiveBitsInSlab<kBlocks>, ScalesAndMins<kBlocks> {
  using Codes = FiveBitsInSlab<kBlocks>;
  static constexpr bool kPerSixteen = false, kMin = true;
  static constexpr int kPlanes = 2;

  template <class Copy>
  __device__ static void copies(const PackedView& w, const SlabPart& p, int code, int scale, int super, int lane,
                                const Copy& copy) {
    const uint8_t* strip = w.codes + p.strip_start() * 20;
    copy_run<kBlocks>(strip + p.first % 32 * 16, p.count, code, lane, copy);
    copy_run<kBlocks / 4>(strip + p.strip_width() * 16 + p.first % 32 * 4, p.count / 4, code + Codes::kPlane, lane,
                          copy);
    FormatQ5K::copy_scales(w, p, scale, super, lane, copy);
  }
  __device__ static void load_codes(uint32_t (&a)[4], uint32_t codes, uint32_t rows, int block, int lane) {
    Codes::load_unsigned(a, codes, rows, block, lane);
  }
};

/// Q5_0, and with kWithMin Q5_1.
template <int kBlocks, bool kWithMin>
struct FormatQ5 : FiveBitsInSlab<kBlocks> {
  using Codes = FiveBitsInSlab<kBlocks>;
  static constexpr bool kPerSixteen = false, kMin = kWithMin;
  static constexpr int kPlanes = kWithMin ? 2 : 1, kScaleBytes = kWithMin ? 4 : 2;
  static constexpr int kScaleRow = odd_rows(kBlocks * kScaleBytes), kSuperRow = 0;

  template <class Copy>
  __device__ static void copies(const PackedView& w, const SlabPart& p, int code, int scale, int, int lane,
                                const Copy& copy) {
    copy_run<kBlocks>(w.codes + (p.row * p.blocks_per_row + p.first) * 16, p.count, code, lane, copy);
    const auto row_of = [&](const uint8_t* base, int each) {
      return base + p.row * padded_row_bytes(p.blocks_per_row, each) + p.first * each;
    };
    copy_run<kBlocks / 4>(row_of(w.supers, 4), (p.count + 3) / 4, code + Codes::kPlane, lane, copy);
    copy_run<kBlocks * kScaleBytes / 16>(row_of(w.scales, kScaleBytes), (p.count * kScaleBytes + 15) / 16, scale, lane,
                                         copy);
  }
  __device__ static int scale_phase(int64_t, int) { return 0; }
  __device__ static int super_phase(int64_t, int) { return 0; }
  __device__ static void load_codes(uint32_t (&a)[4], uint32_t codes, uint32_t rows, int block, int lane) {
    if constexpr (kWithMin) {
      Codes::load_unsigned(a, codes, rows, block, lane);
    } else {
      Codes::load_signed(a, codes, rows, block, lane);
    }
  }
  __device__ static RowSuper super(const uint8_t*) { return {}; }
  __device__ static RowScale scale(const uint8_t* at, const RowSuper&) {
    if constexpr (kWithMin) {
      const float2 d = __half22float2(*reinterpret_cast<const __half2*>(at));
      return {d.x, d.y, 0, 0};
    } else {
      return {0.125f * __half2float(*reinterpret_cast<const __half*>(at)), 0, 0, 0};
    }
  }
};
template <int kBlocks>
using FormatQ5_0 = FormatQ5<kBlocks, false>;
template <int kBlocks>
using FormatQ5_1 = FormatQ5<kBlocks, true>;

}  // namespace imp::cuda
