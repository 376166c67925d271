#pragma once
#include <immintrin.h>

#include <cstdint>

namespace imp::cpu {

/// Eight floats; see Avx512. Needs AVX2, FMA and F16C.
struct Avx2 {
  using Reg = __m256;
  static constexpr int kWidth = 8;
  static constexpr int kTileRows = 6, kTileCols = 2;  // 12 sums, 2 columns, 1 broadcast
  static constexpr int kDotRows = 1;                  // 8 sums

  static Reg zero() { return _mm256_setzero_ps(); }
  static Reg set(float x) { return _mm256_set1_ps(x); }
  static Reg load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Reg x) { _mm256_storeu_ps(p, x); }
  static Reg load_part(const float* p, int count) { return _mm256_maskload_ps(p, lanes(count)); }
  static void store_part(float* p, Reg x, int count) { _mm256_maskstore_ps(p, lanes(count), x); }
  static Reg load_f16(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
  /// Head sizes are multiples of 8, so that a part of fewer lanes does not occur.
  static Reg load_f16_part(const uint16_t* p, int) { return load_f16(p); }
  static void store_f16(uint16_t* p, Reg x) {
    _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static void store_f16_part(uint16_t* p, Reg x, int) { store_f16(p, x); }

  static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static Reg fnma(Reg a, Reg b, Reg c) { return _mm256_fnmadd_ps(a, b, c); }
  static Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
  static Reg min(Reg a, Reg b) { return _mm256_min_ps(a, b); }
  static Reg abs(Reg x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
  static Reg round(Reg x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Reg where_less(Reg x, Reg limit, Reg a, Reg b) {
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, limit, _CMP_LT_OQ));
  }
  static Reg scale_pow2(Reg x, Reg n) {
    const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return mul(x, _mm256_castsi256_ps(exponent));
  }

  static Reg load_twice(const float* p) {
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
  }
  static Reg swap_neighbours(Reg x) { return _mm256_permute_ps(x, 0xb1); }
  static Reg fma_sub_add(Reg a, Reg b, Reg c) { return _mm256_fmaddsub_ps(a, b, c); }

  static float sum(Reg x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  static float max_of(Reg x) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
  }

  static void sum_8(const Reg* acc, float* scores) {
    const Reg s01 = _mm256_hadd_ps(acc[0], acc[1]), s23 = _mm256_hadd_ps(acc[2], acc[3]);
    const Reg s45 = _mm256_hadd_ps(acc[4], acc[5]), s67 = _mm256_hadd_ps(acc[6], acc[7]);
    const Reg low = _mm256_hadd_ps(s01, s23), high = _mm256_hadd_ps(s45, s67);
    store(scores, add(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)));
  }

  static void transpose_store(Reg* rows, float* to, int64_t to_stride) {
    Reg t[8];
    for (int i = 0; i < 8; i += 4) {
      const Reg a = _mm256_unpacklo_ps(rows[i], rows[i + 1]), b = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
      const Reg c = _mm256_unpacklo_ps(rows[i + 2], rows[i + 3]), d = _mm256_unpackhi_ps(rows[i + 2], rows[i + 3]);
      t[i] = _mm256_shuffle_ps(a, c, 0x44), t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
      t[i + 2] = _mm256_shuffle_ps(b, d, 0x44), t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    // t[4q + j] holds, in each 128-bit lane l, column 4l + j of rows 4q .. 4q+3.
    for (int j = 0; j < 4; ++j) {
      store(to + j * to_stride, _mm256_permute2f128_ps(t[j], t[4 + j], 0x20));
      store(to + (4 + j) * to_stride, _mm256_permute2f128_ps(t[j], t[4 + j], 0x31));
    }
  }

 private:
  static __m256i lanes(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
};

}  // namespace imp::cpu
