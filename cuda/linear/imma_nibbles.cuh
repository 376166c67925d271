#pragma once
#include "device/nibble_formats.cuh"
#include "linear/imma_formats.cuh"

namespace imp::cuda {

/// The formats of device/nibble_formats.cuh for gemm_imma. Codes are multiplied as they come out of Format::half(), and
/// what they are too large by is taken off their scales.
template <class Format, int kBlocks>
struct FormatNibbles {
  static constexpr bool kPerSixteen = Format::kPerSixteen, kMin = Format::kMin;
  static_assert(!(kPerSixteen && kMin));
  static constexpr int kPlanes = kMin ? 2 : 1;
  static constexpr int kScaleBytes = Format::kScaleBytes, kCodeBytes = 16, kPairBytes = 8;
  static constexpr int kCodeRow = odd_rows(kBlocks * 16), kScaleRow = odd_rows(kBlocks * kScaleBytes);
  static constexpr int kSuperRow = Format::kSupers ? 48 : 0;

  template <class Copy>
  __device__ static void copies(const PackedView& w, const SlabPart& p, int code, int scale, int super, int lane,
                                const Copy& copy) {
    copy_run<kBlocks>(w.codes + p.strip_start() * 16 + p.first % 32 * 16, p.count, code, lane, copy);
    copy_run<kBlocks * kScaleBytes / 16>(
        w.scales + p.row * padded_row_bytes(p.blocks_per_row, kScaleBytes) + p.first * kScaleBytes,
        (p.count * kScaleBytes + 15) / 16, scale, lane, copy);
    if constexpr (Format::kSupers)
      copy_window<kBlocks / 2>(w.supers, (p.row * (p.blocks_per_row / 8) + p.first / 8) * 4, p.count / 2, super, lane,
                               copy);
  }
  __device__ static int scale_phase(int64_t, int) { return 0; }
  __device__ static int super_phase(int64_t row, int blocks_per_row) {
    return Format::kSupers ? static_cast<int>(row * (blocks_per_row / 8) & 3) : 0;
  }

  __device__ static int code_offset(int row, int lane) { return (row + lane % 16) * kCodeRow; }
  __device__ static void load_codes(uint32_t (&a)[4], uint32_t codes, uint32_t, int block, int) {
    uint32_t upper, lower;
    load_rows_x2(upper, lower, codes + block * 16);
    a[0] = Format::half(upper, 0), a[1] = Format::half(lower, 0);
    a[2] = Format::half(upper, 1), a[3] = Format::half(lower, 1);
  }
  __device__ static RowSuper super(const uint8_t* at) {
    return {half_to_float(*reinterpret_cast<const uint16_t*>(at)), 0, 0, 0};
  }
  __device__ static RowScale scale(const uint8_t* at, const RowSuper& super) {
    constexpr float kUnit = 1.0f / (1 << Format::kShift);
    const uint32_t raw = read_scale<kScaleBytes>(at);
    const NibbleScales of = Format::scales(raw, super.s);
    return {of.s * kUnit, of.m, of.second * kUnit, 0};
  }
};

}  // namespace imp::cuda
