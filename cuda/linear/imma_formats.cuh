#pragma once
// What gemm_imma needs to know of a packed layout: how a row's part of a slab (kBlocks blocks of 32 weights) lies in
// shared memory, which copies bring it there, and how a lane gets its fragments and scales.
#include <cuda_fp16.h>

#include <cstdint>

#include "device/load.cuh"
#include "device/mma_s8.cuh"
#include "linear/packed_weight.h"

namespace imp::cuda {

/// A multiple of 16 bytes that puts 8 rows of 16 bytes into all 32 banks.
__host__ __device__ constexpr int odd_rows(int bytes) { return ((bytes + 15) / 16 | 1) * 16; }

/// Scale and minus the minimum of one row in one block; `second` ones are of weights 16..31.
struct RowScale {
  float s, m, second_s, second_m;
};

/// The place of blocks [first, first + count) of a row in its packed memory.
struct SlabPart {
  int64_t row;
  int blocks_per_row, first, count;
  __device__ __forceinline__ int64_t strip_start() const { return row * blocks_per_row + first / 32 * 32; }
  __device__ __forceinline__ int strip_width() const { return min(32, blocks_per_row - first / 32 * 32); }
};

/// Eight lanes copy a row's part of a slab, 16 bytes each at a time: copy(offset in the stage, source).
template <int kMost, class Copy>
__device__ __forceinline__ void copy_run(const uint8_t* from, int pieces, int to, int lane, const Copy& copy) {
#pragma unroll
  for (int i = 0; i < (kMost + 7) / 8; ++i)
    if (i * 8 + lane < pieces) copy(to + (i * 8 + lane) * 16, from + (i * 8 + lane) * 16);
}
/// Where the source is not on 16 bytes, what lies around it comes along, and readers add the distance.
template <int kMostBytes, class Copy>
__device__ __forceinline__ void copy_window(const uint8_t* base, int64_t start, int bytes, int to, int lane,
                                            const Copy& copy) {
  const int64_t from = start & ~int64_t{15};
  copy_run<(kMostBytes + 30) / 16>(base + from, static_cast<int>(start + bytes + 15 - from) / 16, to, lane, copy);
}

/// What a row's blocks of a slab have in common: the f16 pair that 8 blocks share, made ready.
struct RowSuper {
  float s, s_offset, m, m_offset;
};

/// 2^23 + byte `index` of `word`, as a float: no conversion needed.
template <int kIndex>
__device__ __forceinline__ float biased_byte(uint32_t word) {
  return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440 | kIndex));
}

// A format's constants: of a row's part of a slab in shared memory kCodeRow bytes of codes, kScaleRow of scales and
// kSuperRow of supers; of a block kScaleBytes, kCodeBytes where its codes begin and kPairBytes where the second part of
// them is; kPlanes: of the floats beside the activations' codes.

/// Scales of one f16 a block.
template <int kBlocks>
struct FormatQ8 {
  static constexpr bool kPerSixteen = false, kMin = false;
  static constexpr int kPlanes = 1;  // of the floats beside the activations' codes
  static constexpr int kCodeRow = odd_rows(kBlocks * 32), kScaleRow = odd_rows(kBlocks * 2 + 16), kSuperRow = 0;
  static constexpr int kScaleBytes = 2, kCodeBytes = 16, kPairBytes = 8;

  template <class Copy>
  __device__ static void copies(const PackedView& w, const SlabPart& p, int code, int scale, int, int lane,
                                const Copy& copy) {
    const uint8_t* codes = w.codes + p.strip_start() * 32 + p.first % 32 * 16;
    copy_run<kBlocks>(codes, p.count, code, lane, copy);
    copy_run<kBlocks>(codes + p.strip_width() * 16, p.count, code + kBlocks * 16, lane, copy);
    copy_window<kBlocks * 2>(w.scales, (p.row * p.blocks_per_row + p.first) * 2, p.count * 2, scale, lane, copy);
  }
  /// How far into its window of scales a row begins, in bytes; and the same of the supers, in entries, at block 0.
  __device__ static int scale_phase(int64_t row, int blocks_per_row) {
    return static_cast<int>(row * blocks_per_row * 2 & 15);
  }
  __device__ static int super_phase(int64_t, int) { return 0; }

  /// Where this lane's codes of block 0 are in a stage, of 16 rows from `row`.
  __device__ static int code_offset(int row, int lane) {
    return (row + lane % 16) * kCodeRow + lane / 16 * (kBlocks * 16);
  }
  __device__ static void load_codes(uint32_t (&a)[4], uint32_t codes, uint32_t, int block, int) {
    load_rows_x4(a, codes + block * 16);
  }
  __device__ static RowSuper super(const uint8_t*) { return {}; }
  __device__ static RowScale scale(const uint8_t* at, const RowSuper&) {
    return {__half2float(*reinterpret_cast<const __half*>(at)), 0, 0, 0};
  }
};

/// The scales of the K formats: two bytes a block, and an f16 pair for 8 blocks.
template <int kBlocks>
struct KScales {
  static constexpr int kScaleRow = odd_rows(kBlocks * 2), kSuperRow = 48, kScaleBytes = 2;

  template <class Copy>
  __device__ static void copy_scales(const PackedView& w, const SlabPart& p, int scale, int super, int lane,
                                     const Copy& copy) {
    copy_run<kBlocks / 8>(w.scales + (p.row * p.blocks_per_row + p.first) * 2, p.count / 8, scale, lane, copy);
    copy_window<kBlocks / 2>(w.supers, (p.row * (p.blocks_per_row / 8) + p.first / 8) * 4, p.count / 2, super, lane,
                             copy);
  }
  __device__ static int scale_phase(int64_t, int) { return 0; }
  __device__ static int super_phase(int64_t row, int blocks_per_row) {
    return static_cast<int>(row * (blocks_per_row / 8) & 3);
  }
};

/// Those of Q4_K and Q5_K, of 32 weights each.
template <int kBlocks>
struct ScalesAndMins : KScales<kBlocks> {
  /// d * scale is fma(d, 2^23 + scale, -2^23 * d): one rounding, as the product has.
  __device__ static RowSuper super(const uint8_t* at) {
    const float2 d = __half22float2(*reinterpret_cast<const __half2*>(at));
    return {d.x, -0x1p23f * d.x, -d.y, 0x1p23f * d.y};
  }
  __device__ static RowScale scale(const uint8_t* at, const RowSuper& super) {
    const uint32_t sm = *reinterpret_cast<const uint16_t*>(at);
    return {fmaf(super.s, biased_byte<0>(sm), super.s_offset), fmaf(super.m, biased_byte<1>(sm), super.m_offset), 0, 0};
  }
};

/// Those of Q6_K and Q3_K, of 16 weights each, for codes that are multiplied as `kTimes` times what they are.
template <int kBlocks, int kTimes>
struct SignedScales : KScales<kBlocks> {
  __device__ static RowSuper super(const uint8_t* at) {
    return {1.0f / kTimes * __low2float(*reinterpret_cast<const __half2*>(at)), 0, 0, 0};
  }
  __device__ static RowScale scale(const uint8_t* at, const RowSuper& super) {
    const uint32_t s = *reinterpret_cast<const uint16_t*>(at) ^ 0x8080u;  // + 128: 0 to 255
    constexpr float kBias = 0x1p23f + 128;
    return {super.s * (biased_byte<0>(s) - kBias), 0, super.s * (biased_byte<1>(s) - kBias), 0};
  }
};

template <int kBlocks>
struct FormatQ4K : ScalesAndMins<kBlocks> {
  static constexpr bool kPerSixteen = false, kMin = true;
  static constexpr int kPlanes = 2;
  static constexpr int kCodeRow = odd_rows(kBlocks * 16), kCodeBytes = 16, kPairBytes = 8;

  template <class Copy>
  __device__ static void copies(const PackedView& w, const SlabPart& p, int code, int scale, int super, int lane,
                                const Copy& copy) {
    copy_run<kBlocks>(w.codes + p.strip_start() * 16 + p.first % 32 * 16, p.count, code, lane, copy);
    FormatQ4K::copy_scales(w, p, scale, super, lane, copy);
  }

  __device__ static int code_offset(int row, int lane) { return (row + lane % 16) * kCodeRow; }
  __device__ static void load_codes(uint32_t (&a)[4], uint32_t codes, uint32_t, int block, int) {
    uint32_t low, high;
    load_rows_x2(low, high, codes + block * 16);
    a[0] = low & 0x0f0f0f0fu, a[1] = high & 0x0f0f0f0fu;
    a[2] = (low >> 4) & 0x0f0f0f0fu, a[3] = (high >> 4) & 0x0f0f0f0fu;
  }
};

/// Codes are multiplied as 4 * (q - 32), which is q in the upper 6 bits with the top one turned over.
template <int kBlocks>
struct FormatQ6K : SignedScales<kBlocks, 4> {
  static constexpr bool kPerSixteen = true, kMin = false;
  static constexpr int kPlanes = 1;
  static constexpr int kCodeRow = odd_rows(kBlocks * 24), kCodeBytes = 16, kPairBytes = 8;

  template <class Copy>
  __device__ static void copies(const PackedView& w, const SlabPart& p, int code, int scale, int super, int lane,
                                const Copy& copy) {
    const uint8_t* strip = w.codes + p.strip_start() * 24;
    copy_run<kBlocks>(strip + p.first % 32 * 16, p.count, code, lane, copy);
    copy_run<kBlocks / 2>(strip + p.strip_width() * 16 + p.first % 32 * 8, p.count / 2, code + kBlocks * 16, lane,
                          copy);
    FormatQ6K::copy_scales(w, p, scale, super, lane, copy);
  }

  __device__ static int code_offset(int row, int lane) { return (row + lane % 16) * kCodeRow; }
  /// `rows` is where the first of the 16 rows begins, plus 8 bytes a block before block 0.
  __device__ static void load_codes(uint32_t (&a)[4], uint32_t codes, uint32_t rows, int block, int lane) {
    uint32_t nibbles[2];
    load_rows_x2(nibbles[0], nibbles[1], codes + block * 16);
    // Word i of the weights: pairs of word i % 2, at bit i / 2 * 2. This lane has words lane % 4 and lane % 4 + 4.
    const uint32_t pairs = rows + lane / 4 * kCodeRow + kBlocks * 16 + lane % 2 * 4;
    const int shift = lane % 4 / 2 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t high = load_shared_word(pairs + block * 8 + half * 8 * kCodeRow) >> shift;
      a[half] = (((nibbles[half] << 2) & 0x3c3c3c3cu) | ((high << 6) & 0xc0c0c0c0u)) ^ 0x80808080u;
      a[half + 2] = (((nibbles[half] >> 2) & 0x3c3c3c3cu) | ((high << 2) & 0xc0c0c0c0u)) ^ 0x80808080u;
    }
  }
};

}  // namespace imp::cuda
