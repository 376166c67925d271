#pragma once
#include "linear/imma_five_bits.cuh"

namespace imp::cuda {

// Codes of 2 and 3 bits: words 0 and 1 of a block have weights 8k + 4p + b at bits 2k, 2k + 1 of byte b of word p. A
// lane of the product wants weights 4j .. 4j + 3 and the same + 16 for j = lane % 4: those are k = j / 2 and k + 2 of
// word j % 2.

template <int kBlocks>
struct FormatQ2K : KScales<kBlocks> {
  static constexpr bool kPerSixteen = true, kMin = true;
  static constexpr int kPlanes = 3;
  static constexpr int kCodeRow = odd_rows(kBlocks * 8), kCodeBytes = 8, kPairBytes = 0;

  template <class Copy>
  __device__ static void copies(const PackedView& w, const SlabPart& p, int code, int scale, int super, int lane,
                                const Copy& copy) {
    copy_run<kBlocks / 2>(w.codes + (p.row * p.blocks_per_row + p.first) * 8, p.count / 2, code, lane, copy);
    FormatQ2K::copy_scales(w, p, scale, super, lane, copy);
  }
  __device__ static int code_offset(int row, int lane) { return (row + lane / 4) * kCodeRow + lane % 2 * 4; }
  __device__ static void load_codes(uint32_t (&a)[4], uint32_t codes, uint32_t, int block, int lane) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t word = load_shared_word(codes + block * 8 + half * 8 * kCodeRow) >> (lane % 4 / 2 * 2);
      a[half] = word & 0x03030303u;
      a[half + 2] = (word >> 4) & 0x03030303u;
    }
  }
  __device__ static RowSuper super(const uint8_t* at) { return ScalesAndMins<kBlocks>::super(at); }
  __device__ static RowScale scale(const uint8_t* at, const RowSuper& super) {
    const uint32_t sm = *reinterpret_cast<const uint16_t*>(at), s = sm & 0x0f0fu, m = (sm >> 4) & 0x0f0fu;
    const auto scale_of = [&](float byte) { return fmaf(super.s, byte, super.s_offset); };
    const auto min_of = [&](float byte) { return fmaf(super.m, byte, super.m_offset); };
    return {scale_of(biased_byte<0>(s)), min_of(biased_byte<0>(m)), scale_of(biased_byte<1>(s)),
            min_of(biased_byte<1>(m))};
  }
};

/// Codes are multiplied as 32 * (q - 4), which is q in the upper 3 bits with the top one turned over.
template <int kBlocks>
struct FormatQ3K : SignedScales<kBlocks, 32> {
  static constexpr bool kPerSixteen = true, kMin = false;
  static constexpr int kPlanes = 1;
  static constexpr int kCodeRow = odd_rows(kBlocks * 12), kCodeBytes = 8, kPairBytes = 4;

  template <class Copy>
  __device__ static void copies(const PackedView& w, const SlabPart& p, int code, int scale, int super, int lane,
                                const Copy& copy) {
    const uint8_t* strip = w.codes + p.strip_start() * 12;
    copy_run<kBlocks / 2>(strip + p.first % 32 * 8, p.count / 2, code, lane, copy);
    copy_run<kBlocks / 4>(strip + p.strip_width() * 8 + p.first % 32 * 4, p.count / 4, code + kBlocks * 8, lane, copy);
    FormatQ3K::copy_scales(w, p, scale, super, lane, copy);
  }
  __device__ static int code_offset(int row, int lane) { return (row + lane / 4) * kCodeRow + lane % 2 * 4; }
  __device__ static void load_codes(uint32_t (&a)[4], uint32_t codes, uint32_t rows, int block, int lane) {
    // Even k: the field at bits 0, 1 and the third bit at 2, and so at 4, 5, 6. Odd k: 2, 3 and 1, and 6, 7 and 5.
    const int k = lane % 4 / 2;
    const uint32_t of_field = k ? 0xccccccccu : 0x33333333u;
    const uint32_t plane = rows + lane / 4 * kCodeRow + kBlocks * 8 + block * 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t fields = load_shared_word(codes + block * 8 + half * 8 * kCodeRow);
      const uint32_t third = load_shared_word(plane + half * 8 * kCodeRow);
      const uint32_t turned = __funnelshift_r(third, third, lane % 2 * 2);
      const uint32_t both = (fields & of_field) | (turned & ~of_field);
      a[half] = ((both << (5 - k)) & 0xe0e0e0e0u) ^ 0x80808080u;
      a[half + 2] = ((both << (1 - k)) & 0xe0e0e0e0u) ^ 0x80808080u;
    }
  }
};

}  // namespace imp::cuda
