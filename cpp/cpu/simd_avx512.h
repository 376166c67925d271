#pragma once
#include <immintrin.h>

#include <cstdint>

namespace imp::cpu {

/// Sixteen floats. The kernels are templates over this and `Avx2`, so that each instruction set has its own symbols:
/// the linker must never merge a function compiled for one with that of another. Only sources compiled for AVX-512 may
/// include this file.
struct Avx512 {
  using Reg = __m512;
  static constexpr int kWidth = 16;
  static constexpr int kTileRows = 6, kTileCols = 4;  // registers of a matrix tile: 24 sums, 4 columns, 1 broadcast
  static constexpr int kDotRows = 3;                  // queries that share a pass over 8 keys: 24 sums

  static Reg zero() { return _mm512_setzero_ps(); }
  static Reg set(float x) { return _mm512_set1_ps(x); }
  static Reg load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Reg x) { _mm512_storeu_ps(p, x); }
  /// The first `count` lanes, 0 < count <= 16; the others are 0 or left alone.
  static Reg load_part(const float* p, int count) { return _mm512_maskz_loadu_ps(lanes(count), p); }
  static void store_part(float* p, Reg x, int count) { _mm512_mask_storeu_ps(p, lanes(count), x); }
  static Reg load_f16(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
  static Reg load_f16_part(const uint16_t* p, int count) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes(count), p));
  }
  static void store_f16(uint16_t* p, Reg x) { _mm256_storeu_si256((__m256i*)p, to_f16(x)); }
  static void store_f16_part(uint16_t* p, Reg x, int count) { _mm256_mask_storeu_epi16(p, lanes(count), to_f16(x)); }

  static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static Reg fnma(Reg a, Reg b, Reg c) { return _mm512_fnmadd_ps(a, b, c); }
  /// Of a NaN and a number these give the second operand.
  static Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
  static Reg min(Reg a, Reg b) { return _mm512_min_ps(a, b); }
  static Reg abs(Reg x) { return _mm512_abs_ps(x); }
  static Reg round(Reg x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  /// x < limit ? a : b
  static Reg where_less(Reg x, Reg limit, Reg a, Reg b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ), b, a);
  }
  /// x * 2^n for integral n in [-126, 127]
  static Reg scale_pow2(Reg x, Reg n) { return _mm512_scalef_ps(x, n); }

  /// Eight floats, each in two neighbouring lanes.
  static Reg load_twice(const float* p) {
    const __m512i index = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(index, _mm512_castps256_ps512(_mm256_loadu_ps(p)));
  }
  static Reg swap_neighbours(Reg x) { return _mm512_permute_ps(x, 0xb1); }
  /// a * b - c in even lanes, a * b + c in odd ones
  static Reg fma_sub_add(Reg a, Reg b, Reg c) { return _mm512_fmaddsub_ps(a, b, c); }

  static float sum(Reg x) { return _mm512_reduce_add_ps(x); }
  static float max_of(Reg x) { return _mm512_reduce_max_ps(x); }

  /// scores[i] = the sum of the lanes of acc[i], i < 8.
  static void sum_8(const Reg* acc, float* scores) {
    __m256 half[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
      half[i] = _mm256_add_ps(_mm512_castps512_ps256(acc[i]), _mm512_extractf32x8_ps(acc[i], 1));
    const __m256 s01 = _mm256_hadd_ps(half[0], half[1]), s23 = _mm256_hadd_ps(half[2], half[3]);
    const __m256 s45 = _mm256_hadd_ps(half[4], half[5]), s67 = _mm256_hadd_ps(half[6], half[7]);
    const __m256 low = _mm256_hadd_ps(s01, s23), high = _mm256_hadd_ps(s45, s67);
    _mm256_storeu_ps(scores,
                     _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)));
  }

  /// to[c * to_stride + r] = rows[r][c] for the 16x16 block in registers.
  static void transpose_store(Reg* rows, float* to, int64_t to_stride) {
    Reg t[16];
    for (int i = 0; i < 16; i += 4) {
      const Reg a = _mm512_unpacklo_ps(rows[i], rows[i + 1]), b = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
      const Reg c = _mm512_unpacklo_ps(rows[i + 2], rows[i + 3]), d = _mm512_unpackhi_ps(rows[i + 2], rows[i + 3]);
      t[i] = pairs_low(a, c), t[i + 1] = pairs_high(a, c);
      t[i + 2] = pairs_low(b, d), t[i + 3] = pairs_high(b, d);
    }
    // t[4q + j] holds, in each 128-bit lane l, column 4l + j of rows 4q .. 4q+3.
    for (int j = 0; j < 4; ++j) {
      const Reg a = _mm512_shuffle_f32x4(t[j], t[4 + j], 0x88), b = _mm512_shuffle_f32x4(t[j], t[4 + j], 0xdd);
      const Reg c = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0x88),
                d = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0xdd);
      store(to + j * to_stride, _mm512_shuffle_f32x4(a, c, 0x88));
      store(to + (8 + j) * to_stride, _mm512_shuffle_f32x4(a, c, 0xdd));
      store(to + (4 + j) * to_stride, _mm512_shuffle_f32x4(b, d, 0x88));
      store(to + (12 + j) * to_stride, _mm512_shuffle_f32x4(b, d, 0xdd));
    }
  }

 private:
  static __mmask16 lanes(int count) { return static_cast<__mmask16>((1u << count) - 1); }
  static __m256i to_f16(Reg x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Reg pairs_low(Reg a, Reg b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
  static Reg pairs_high(Reg a, Reg b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
};

}  // namespace imp::cpu
