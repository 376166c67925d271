#pragma once
#include <immintrin.h>

#include "cpu/codec_simd.h"
#include "cpu/linear_kernels.h"
#include "cpu/simd_math.h"
#if defined(__AVX512F__)
#include "cpu/simd_avx512.h"
#else
#include "cpu/simd_avx2.h"
#endif

// The kernels of cpu/linear_kernels.h over vectors; compiled once for AVX2 and once for AVX-512 (VNNI). Everything is
// in an anonymous namespace, for the reason given in codec_simd.h.
//
// dot of a group = d_x * (scale * sum(code * x) - (min + kZero * scale) * sum(x)), with d_x and sum(x) from the
// quantized activations. Unsigned codes times signed activations are what vpdpbusd wants; vpmaddubsw as well while
// the sum of two products stays below 2^15, which codes of 8 bits do not keep: there AVX2 moves the sign over to the
// activations (`kSigned`) and needs no zero point.

namespace imp::cpu {
namespace {

#if defined(__AVX512F__)

using V = Avx512;
using Bytes = __m512i;
constexpr int kLanes = 16;

template <class C>
constexpr bool kSigned = false;

inline Bytes load_bytes(const void* p) { return _mm512_loadu_si512(p); }
inline Bytes broadcast_dword(const int8_t* p) { return _mm512_set1_epi32(load_as<int>(p)); }
inline Bytes no_sums() { return _mm512_setzero_si512(); }
inline V::Reg to_floats(Bytes sums) { return _mm512_cvtepi32_ps(sums); }

/// sums += codes . x, four products a lane
template <bool kSignedCodes>
inline Bytes add_dot(Bytes sums, Bytes codes, Bytes x) {
  return _mm512_dpbusd_epi32(sums, codes, x);
}

/// Codes of groups 2i and 2i + 1 of a chunk of which N groups exist.
template <class C, int N>
inline Bytes chunk_codes(const uint8_t* w, int i) {
  if constexpr (C::kBlock == 256) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(C::codes(w, 2 * i)), C::codes(w, 2 * i + 1), 1);
  } else {
    if (2 * i + 1 >= N) return _mm512_zextsi256_si512(C::codes(w, 2 * i));
    return _mm512_inserti64x4(_mm512_castsi256_si512(C::codes(w, 2 * i)), C::codes(w, 2 * i + 1), 1);
  }
}

/// From the scales of a chunk's sub-groups, that of each lane's sub-group in vector i.
template <int kSub>
inline V::Reg lane_scales(const __m256 (&scale)[2], int i) {
  if constexpr (kSub == 32) {
    const __m512i index =
        _mm512_add_epi32(_mm512_set1_epi32(2 * i), _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
    return _mm512_permutexvar_ps(index, _mm512_castps256_ps512(scale[0]));
  } else {
    const __m512i index =
        _mm512_add_epi32(_mm512_set1_epi32(4 * i), _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3));
    return _mm512_permutexvar_ps(index, _mm512_insertf32x8(_mm512_castps256_ps512(scale[0]), scale[1], 1));
  }
}
inline __m256 fold(V::Reg x) { return _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)); }

#else

using V = Avx2;
using Bytes = __m256i;
constexpr int kLanes = 8;

template <class C>
constexpr bool kSigned = C::kZero == 128;

inline Bytes load_bytes(const void* p) { return load_256(p); }
inline Bytes broadcast_dword(const int8_t* p) { return _mm256_set1_epi32(load_as<int>(p)); }
inline Bytes no_sums() { return _mm256_setzero_si256(); }
inline V::Reg to_floats(Bytes sums) { return _mm256_cvtepi32_ps(sums); }

/// sums += codes . x, four products a lane; signed codes are those minus 128.
template <bool kSignedCodes>
inline Bytes add_dot(Bytes sums, Bytes codes, Bytes x) {
  if constexpr (kSignedCodes) {
    const Bytes value = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
    codes = _mm256_abs_epi8(value);
    x = _mm256_sign_epi8(x, value);
  }
  const Bytes pairs = _mm256_maddubs_epi16(codes, x);
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

template <class C, int N>
inline Bytes chunk_codes(const uint8_t* w, int i) {
  return C::codes(w, i);
}

template <int kSub>
inline V::Reg lane_scales(const __m256 (&scale)[2], int i) {
  if constexpr (kSub == 32) return _mm256_permutevar8x32_ps(scale[0], _mm256_set1_epi32(i));
  const __m256i index = _mm256_add_epi32(_mm256_set1_epi32(2 * (i % 4)), _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
  return _mm256_permutevar8x32_ps(scale[i / 4], index);
}
inline __m256 fold(V::Reg x) { return x; }

#endif

constexpr int kGroupsPerVector = kLanes / 8;
template <class C>
constexpr int64_t kChunkBytes = kChunk / C::kBlock * C::kBytes;

inline float sum_of(__m256 x) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

/// Each of 8 activation scales twice: those of 16 sub-groups.
inline void twice(__m256 x, __m256 (&to)[2]) {
  to[0] = _mm256_permutevar8x32_ps(x, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
  to[1] = _mm256_permutevar8x32_ps(x, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7));
}

// ---- row . activations, straight from the stored blocks ----

/// Sums of a row with each of kTokens tokens; two chains of additions, or their latency would show.
template <int kTokens>
struct RowSums {
  V::Reg dot[kTokens][2];
  __m256 min[kTokens];
};

/// The hardware's prefetchers stop at the end of each page of 4 KiB; asking for the next one keeps memory busy. One row
/// at a time, so that a worker reads one stream: several rows side by side were up to three times slower.
constexpr int kPrefetchBytes = 4096;

template <int kBytes>
inline void prefetch(const uint8_t* p) {
#pragma GCC unroll 8
  for (int i = 0; i < (kBytes + 32) / 64; ++i) _mm_prefetch(reinterpret_cast<const char*>(p) + 64 * i, _MM_HINT_T0);
}

/// scale = the weights' scales times those of token t's activations; adds the part of the minima.
template <class C>
[[gnu::always_inline]] inline void combine_scales(const ChunkScales& w, const QuantizedRows& x, int64_t chunk, int t,
                                                  __m256 (&scale)[2], __m256& min_sum) {
  const __m256 x_scale = _mm256_loadu_ps(x.scale + t * (x.k_padded / 32) + chunk * 8);
  const __m256(&min)[2] = C::kHasMin ? w.min : w.scale;  // else times kZero in the end
  if constexpr (C::kSub == 32) {
    scale[0] = _mm256_mul_ps(w.scale[0], x_scale);
    if constexpr (kSigned<C>) return;
    const __m256 sum = _mm256_loadu_ps(x.sum32 + t * (x.k_padded / 32) + chunk * 8);
    min_sum = _mm256_fmadd_ps(min[0], sum, min_sum);
  } else {
    __m256 both[2];
    twice(x_scale, both);
    scale[0] = _mm256_mul_ps(w.scale[0], both[0]);
    scale[1] = _mm256_mul_ps(w.scale[1], both[1]);
    if constexpr (kSigned<C>) return;
    const float* sum = x.sum16 + t * (x.k_padded / 16) + chunk * 16;
    min_sum = _mm256_fmadd_ps(min[0], _mm256_loadu_ps(sum), min_sum);
    min_sum = _mm256_fmadd_ps(min[1], _mm256_loadu_ps(sum + 8), min_sum);
  }
}

/// Adds the first N groups of a chunk.
template <class C, int kTokens, int N>
[[gnu::always_inline]] inline void add_chunk(const uint8_t* w, const QuantizedRows& x, int64_t chunk,
                                             RowSums<kTokens>& sums) {
  constexpr int kVectors = (N + kGroupsPerVector - 1) / kGroupsPerVector;
  prefetch<N * C::kBytes * 32 / C::kBlock>(w + kPrefetchBytes);
  const ChunkScales w_scales = C::template scales<N>(w);
  __m256 scale[kTokens][2];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) combine_scales<C>(w_scales, x, chunk, t, scale[t], sums.min[t]);
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) {
    const Bytes codes = chunk_codes<C, N>(w, i);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const Bytes x_codes = load_bytes(x.codes + t * x.k_padded + chunk * kChunk + i * kLanes * 4);
      const V::Reg dot = to_floats(add_dot<kSigned<C>>(no_sums(), codes, x_codes));
      sums.dot[t][i % 2] = V::fma(dot, lane_scales<C::kSub>(scale[t], i), sums.dot[t][i % 2]);
    }
  }
}

template <class C, int kTokens>
void gemv_row(const uint8_t* w, int64_t k, const QuantizedRows& x, float* out, int64_t out_stride) {
  RowSums<kTokens> sums;
  for (int t = 0; t < kTokens; ++t) {
    sums.dot[t][0] = sums.dot[t][1] = V::zero();
    sums.min[t] = _mm256_setzero_ps();
  }
  const int64_t chunks = k / kChunk;
  for (int64_t chunk = 0; chunk < chunks; ++chunk, w += kChunkBytes<C>) add_chunk<C, kTokens, 8>(w, x, chunk, sums);
  if constexpr (C::kBlock < kChunk) {
    switch (k % kChunk / 32) {
      case 1: add_chunk<C, kTokens, 1>(w, x, chunks, sums); break;
      case 2: add_chunk<C, kTokens, 2>(w, x, chunks, sums); break;
      case 3: add_chunk<C, kTokens, 3>(w, x, chunks, sums); break;
      case 4: add_chunk<C, kTokens, 4>(w, x, chunks, sums); break;
      case 5: add_chunk<C, kTokens, 5>(w, x, chunks, sums); break;
      case 6: add_chunk<C, kTokens, 6>(w, x, chunks, sums); break;
      case 7: add_chunk<C, kTokens, 7>(w, x, chunks, sums); break;
      default: break;
    }
  }
  const __m256 zero_point = _mm256_set1_ps(C::kHasMin ? 1.0f : C::kZero);
  for (int t = 0; t < kTokens; ++t) {
    const __m256 dot = fold(V::add(sums.dot[t][0], sums.dot[t][1]));
    out[t * out_stride] = sum_of(_mm256_fnmadd_ps(zero_point, sums.min[t], dot));
  }
}

template <class C, int kTokens>
void gemv_tokens(const WeightRows& w, const QuantizedRows& x, float* out, int64_t out_stride) {
  for (int64_t r = 0; r < w.rows; ++r) gemv_row<C, kTokens>(w.data + r * w.row_bytes, w.k, x, out + r, out_stride);
}

/// Each token's sums are those of gemv_tokens<C, 1>, bit for bit.
template <class C>
void gemv_int(const WeightRows& w, const QuantizedRows& x, int m, float* out, int64_t out_stride) {
  if (m >= 4) return gemv_tokens<C, 4>(w, x, out, out_stride);
  if (m >= 2) gemv_tokens<C, 2>(w, x, out, out_stride);
  if (m != 2) gemv_tokens<C, 1>(w, x.from(m - 1), out + (m - 1) * out_stride, out_stride);
}

/// Q8_0 only: blocks of 32 whose position is the group's.
void gemv_skip_q8_0(const WeightRows& w, const QuantizedRows& x, const int32_t* groups, int64_t num_groups,
                    float* out) {
  for (int64_t r = 0; r < w.rows; ++r) {
    const uint8_t* row = w.data + r * w.row_bytes;
    __m256 sum = _mm256_setzero_ps();
    for (int64_t i = 0; i < num_groups; ++i) {
      const int64_t g = groups[i];
      const uint8_t* block = row + g * static_cast<int64_t>(sizeof(BlockQ8_0));
      const __m256i codes = load_256(block + 2);
      const __m256i signed_x = _mm256_sign_epi8(load_256(x.codes + g * 32), codes);
      const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), signed_x);
      const __m256 dot = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
      sum = _mm256_fmadd_ps(dot, _mm256_set1_ps(f16_at(block) * x.scale[g]), sum);
    }
    out[r] = sum_of(sum);
  }
}

// ---- tiles of codes ----

/// to[c][r] = from[r][c] for a square of kLanes dwords; `cols` of its columns are stored.
inline void transpose(const void* from, int64_t from_stride_bytes, float* to, int cols = kLanes) {
  V::Reg rows[kLanes];
  const auto* bytes = static_cast<const uint8_t*>(from);
  for (int r = 0; r < kLanes; ++r) rows[r] = V::load(reinterpret_cast<const float*>(bytes + r * from_stride_bytes));
  if (cols == kLanes) return V::transpose_store(rows, to, kLanes);
  alignas(64) float all[kLanes * kLanes];
  V::transpose_store(rows, all, kLanes);
  std::memcpy(to, all, sizeof(float) * kLanes * cols);
}

/// The last blocks of a row that does not end with a chunk, made a whole chunk with zeros.
template <class C>
inline void pad_chunk(const uint8_t* blocks, int64_t groups, uint8_t (&to)[kChunkBytes<C>]) {
  const int64_t bytes = groups * 32 / C::kBlock * C::kBytes;
  std::memcpy(to, blocks, bytes);
  std::memset(to + bytes, 0, sizeof to - bytes);
}

/// Within each of the rows of a tile, which are read side by side.
constexpr int kTilePrefetchBytes = 512;

/// Codes, scales and mins of a chunk of kLanes rows.
template <class C>
void unpack_chunk(const uint8_t* const (&rows)[kLanes], int64_t offset, const CodeTile& tile) {
  constexpr int kVectors = 8 / kGroupsPerVector;
  constexpr int kSubs = kChunk / C::kSub;
  alignas(64) uint8_t codes[kVectors][kLanes][kLanes * 4];
  alignas(64) float scale[kLanes][16];
  alignas(64) float min[kLanes][16];
  for (int r = 0; r < kLanes; ++r) {
    const uint8_t* w = rows[r] + offset;
    prefetch<kChunkBytes<C>>(w + kTilePrefetchBytes);
    const ChunkScales scales = C::template scales<8>(w);
    for (int half = 0; half < 32 / C::kSub; ++half) {
      _mm256_store_ps(scale[r] + half * 8, scales.scale[half]);
      __m256 total = C::kHasMin ? scales.min[half] : _mm256_setzero_ps();
      if constexpr (!kSigned<C> && C::kZero != 0)
        total = _mm256_fmadd_ps(scales.scale[half], _mm256_set1_ps(C::kZero), total);
      _mm256_store_ps(min[r] + half * 8, total);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) {
      const Bytes unpacked = chunk_codes<C, 8>(w, i);
      std::memcpy(codes[i][r], &unpacked, sizeof unpacked);
    }
  }
  for (int i = 0; i < kVectors; ++i)
    transpose(codes[i], kLanes * 4, reinterpret_cast<float*>(tile.codes) + i * kLanes * kLanes);
  for (int sub = 0; sub < kSubs; sub += kLanes) {
    const int cols = kSubs - sub < kLanes ? kSubs - sub : kLanes;
    transpose(scale[0] + sub, sizeof scale[0], tile.scale + sub * kLanes, cols);
    transpose(min[0] + sub, sizeof min[0], tile.min + sub * kLanes, cols);
  }
}

inline void tile_row_pointers(const WeightRows& w, const uint8_t* (&rows)[kLanes]) {
  for (int r = 0; r < kLanes; ++r) rows[r] = w.data + (r < w.rows ? r : w.rows - 1) * w.row_bytes;
}

template <class C>
void unpack_codes(const WeightRows& w, const CodeTile& tile) {
  const uint8_t* rows[kLanes];
  tile_row_pointers(w, rows);
  constexpr int64_t kChunkSubs = kChunk / C::kSub * kLanes;
  CodeTile to = tile;
  const int64_t chunks = w.k / kChunk;
  for (int64_t c = 0; c < chunks; ++c) {
    unpack_chunk<C>(rows, c * kChunkBytes<C>, to);
    to = {to.codes + kChunk * kLanes, to.scale + kChunkSubs, to.min + kChunkSubs};
  }
  if constexpr (C::kBlock < kChunk) {
    if (w.k % kChunk == 0) return;
    uint8_t padded[kLanes][kChunkBytes<C>];
    for (int r = 0; r < kLanes; ++r) {
      pad_chunk<C>(rows[r] + chunks * kChunkBytes<C>, w.k % kChunk / 32, padded[r]);
      rows[r] = padded[r];
    }
    unpack_chunk<C>(rows, 0, to);
  }
}

/// kTiles tiles x kTokens tokens, sums in registers over the whole of k.
template <int kSub, bool kSignedCodes, int kTiles, int kTokens>
void gemm_int_block(const CodeTile* tile, int64_t k, const QuantizedRows& x, float* out, int64_t out_stride) {
  V::Reg sums[kTokens][kTiles];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 2
    for (int i = 0; i < kTiles; ++i) sums[t][i] = V::zero();
  }
  const int64_t scale_stride = x.k_padded / 32;
  const int64_t sum_stride = x.k_padded / kSub;
  const float* x_sums = kSub == 32 ? x.sum32 : x.sum16;
  const uint8_t* codes[kTiles];
  for (int i = 0; i < kTiles; ++i) codes[i] = tile[i].codes;
  const int8_t* x_codes = x.codes;
  for (int64_t sub = 0; sub < k / kSub; ++sub) {
    Bytes dots[kTokens][kTiles];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 2
      for (int i = 0; i < kTiles; ++i) dots[t][i] = no_sums();
    }
#pragma GCC unroll 8
    for (int j = 0; j < kSub / 4; ++j) {
      Bytes w[kTiles];
#pragma GCC unroll 2
      for (int i = 0; i < kTiles; ++i) w[i] = load_bytes(codes[i] + j * kLanes * 4);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        const Bytes xt = broadcast_dword(x_codes + t * x.k_padded + j * 4);
#pragma GCC unroll 2
        for (int i = 0; i < kTiles; ++i) dots[t][i] = add_dot<kSignedCodes>(dots[t][i], w[i], xt);
      }
    }
    V::Reg scale[kTiles], min[kTiles];
#pragma GCC unroll 2
    for (int i = 0; i < kTiles; ++i) {
      scale[i] = V::load(tile[i].scale + sub * kLanes);
      min[i] = V::load(tile[i].min + sub * kLanes);
      codes[i] += kSub * kLanes;
    }
    x_codes += kSub;
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const V::Reg x_scale = V::set(x.scale[t * scale_stride + sub * kSub / 32]);
      const V::Reg x_sum = V::set(x_sums[t * sum_stride + sub]);
#pragma GCC unroll 2
      for (int i = 0; i < kTiles; ++i) {
        sums[t][i] = V::fma(to_floats(dots[t][i]), V::mul(scale[i], x_scale), sums[t][i]);
        sums[t][i] = V::fnma(min[i], x_sum, sums[t][i]);
      }
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 2
    for (int i = 0; i < kTiles; ++i) V::store(out + t * out_stride + i * kLanes, sums[t][i]);
  }
}

template <int kSub, bool kSignedCodes, int kTiles>
void gemm_int_tiles(const CodeTile* tile, int64_t k, const QuantizedRows& x, int64_t m, float* out, int64_t stride) {
  constexpr int kTokens = kLanes == 16 ? 4 : (kTiles == 1 ? 4 : 2);  // what fits the registers
  int64_t t = 0;
  for (; t + kTokens <= m; t += kTokens)
    gemm_int_block<kSub, kSignedCodes, kTiles, kTokens>(tile, k, x.from(t), out + t * stride, stride);
  for (; t < m; ++t) gemm_int_block<kSub, kSignedCodes, kTiles, 1>(tile, k, x.from(t), out + t * stride, stride);
}

template <class C>
void gemm_int(const CodeTile* tile, int tiles, int64_t k, const QuantizedRows& x, int64_t m, float* out,
              int64_t out_stride) {
  if (tiles == 2) return gemm_int_tiles<C::kSub, kSigned<C>, 2>(tile, k, x, m, out, out_stride);
  gemm_int_tiles<C::kSub, kSigned<C>, 1>(tile, k, x, m, out, out_stride);
}

// ---- fp32 ----

/// 32 codes of one group as floats.
template <class C>
inline void dequantize_group(__m256i codes, const ChunkScales& scales, int g, float* to) {
  alignas(32) uint8_t bytes[32];
  alignas(32) float scale[16], min[16];
  _mm256_store_si256(reinterpret_cast<__m256i*>(bytes), codes);
  for (int half = 0; half < 32 / C::kSub; ++half) {
    _mm256_store_ps(scale + half * 8, scales.scale[half]);
    _mm256_store_ps(min + half * 8, C::kHasMin ? scales.min[half] : _mm256_setzero_ps());
  }
  for (int i = 0; i < 32; i += 8) {
    const int sub = (g * 32 + i) / C::kSub;
    const __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes + i)));
    const __m256 centred = _mm256_cvtepi32_ps(_mm256_sub_epi32(wide, _mm256_set1_epi32(C::kZero)));
    _mm256_storeu_ps(to + i, _mm256_fmsub_ps(centred, _mm256_set1_ps(scale[sub]), _mm256_set1_ps(min[sub])));
  }
}

/// The first `count` weights of a chunk of a row as fp32.
template <class C>
struct CodedRow {
  static void whole_chunk(const uint8_t* w, float* to) {
    const ChunkScales scales = C::template scales<8>(w);
#pragma GCC unroll 8
    for (int g = 0; g < 8; ++g) dequantize_group<C>(C::codes(w, g), scales, g, to + g * 32);
  }
  static void chunk(const uint8_t* row, int64_t chunk, int64_t count, float* to) {
    const uint8_t* w = row + chunk * kChunkBytes<C>;
    if (count == kChunk) return whole_chunk(w, to);
    if constexpr (C::kBlock < kChunk) {
      uint8_t padded[kChunkBytes<C>];
      alignas(64) float values[kChunk];
      pad_chunk<C>(w, count / 32, padded);
      whole_chunk(padded, values);
      std::memcpy(to, values, count * sizeof(float));
    }
  }
};

inline __m256 widen(WeightFormat format, const uint8_t* p) {
  if (format == WeightFormat::f32) return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  if (format == WeightFormat::f16) return _mm256_cvtph_ps(half);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/// As CodedRow, for the float formats, whose rows may have any length.
template <WeightFormat kFormat>
struct FloatRow {
  static constexpr int kBytes = kFormat == WeightFormat::f32 ? 4 : 2;

  static void chunk(const uint8_t* row, int64_t chunk, int64_t count, float* to) {
    const uint8_t* w = row + chunk * kChunk * kBytes;
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) _mm256_storeu_ps(to + i, widen(kFormat, w + i * kBytes));
    if (i == count) return;
    alignas(32) uint8_t last[8 * kBytes] = {};
    alignas(32) float values[8];
    std::memcpy(last, w + i * kBytes, (count - i) * kBytes);
    _mm256_store_ps(values, widen(kFormat, last));
    std::memcpy(to + i, values, (count - i) * sizeof(float));
  }
};

/// x is padded with zeros to whole chunks.
template <class Row>
void gemv_f32(const WeightRows& w, const float* x, float* out) {
  alignas(64) float values[kChunk];
  for (int64_t r = 0; r < w.rows; ++r) {
    V::Reg sums[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
    for (int64_t c = 0; c * kChunk < w.k; ++c) {
      const int64_t count = w.k - c * kChunk < kChunk ? w.k - c * kChunk : kChunk;
      if (count < kChunk) std::memset(values, 0, sizeof values);
      Row::chunk(w.data + r * w.row_bytes, c, count, values);
      for (int i = 0; i < kChunk; i += 4 * kLanes) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const int at = i + j * kLanes;
          sums[j] = V::fma(V::load(values + at), V::load(x + c * kChunk + at), sums[j]);
        }
      }
    }
    out[r] = V::sum(V::add(V::add(sums[0], sums[1]), V::add(sums[2], sums[3])));
  }
}

inline void round_f16(float* values, int64_t count) {
  for (int64_t i = 0; i < count; i += 8) {
    const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_ps(values + i, _mm256_cvtph_ps(half));
  }
}

/// tile[c][lane], c < padded_k(k)
template <class Row>
void unpack_f32(const WeightRows& w, bool round_to_f16, float* tile) {
  const uint8_t* rows[kLanes];
  tile_row_pointers(w, rows);
  alignas(64) float values[kLanes][kChunk];
  for (int64_t c = 0; c * kChunk < w.k; ++c) {
    const int64_t count = w.k - c * kChunk < kChunk ? w.k - c * kChunk : kChunk;
    if (count < kChunk) std::memset(values, 0, sizeof values);
    for (int r = 0; r < kLanes; ++r) {
      Row::chunk(rows[r], c, count, values[r]);
      if (round_to_f16) round_f16(values[r], kChunk);
    }
    for (int i = 0; i < kChunk; i += kLanes)
      transpose(values[0] + i, sizeof values[0], tile + (c * kChunk + i) * kLanes);
  }
}

template <int kTiles, int kTokens>
void gemm_f32_block(const float* tile, int64_t tile_stride, int64_t k, const float* x, int64_t x_stride, float* out,
                    int64_t out_stride) {
  V::Reg sums[kTokens][kTiles];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 2
    for (int i = 0; i < kTiles; ++i) sums[t][i] = V::zero();
  }
  for (int64_t c = 0; c < k; ++c) {
    V::Reg w[kTiles];
#pragma GCC unroll 2
    for (int i = 0; i < kTiles; ++i) w[i] = V::load(tile + i * tile_stride + c * kLanes);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const V::Reg xt = V::set(x[t * x_stride + c]);
#pragma GCC unroll 2
      for (int i = 0; i < kTiles; ++i) sums[t][i] = V::fma(w[i], xt, sums[t][i]);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 2
    for (int i = 0; i < kTiles; ++i) V::store(out + t * out_stride + i * kLanes, sums[t][i]);
  }
}

template <int kTiles>
void gemm_f32_tiles(const float* tile, int64_t k, const float* x, int64_t x_stride, int64_t m, float* out,
                    int64_t out_stride) {
  constexpr int kTokens = kLanes == 16 || kTiles == 1 ? 6 : 4;
  const int64_t tile_stride = padded_k(k) * kLanes;
  int64_t t = 0;
  for (; t + kTokens <= m; t += kTokens)
    gemm_f32_block<kTiles, kTokens>(tile, tile_stride, k, x + t * x_stride, x_stride, out + t * out_stride, out_stride);
  for (; t < m; ++t)
    gemm_f32_block<kTiles, 1>(tile, tile_stride, k, x + t * x_stride, x_stride, out + t * out_stride, out_stride);
}

void gemm_f32(const float* tile, int tiles, int64_t k, const float* x, int64_t x_stride, int64_t m, float* out,
              int64_t out_stride) {
  if (tiles == 2) return gemm_f32_tiles<2>(tile, k, x, x_stride, m, out, out_stride);
  gemm_f32_tiles<1>(tile, k, x, x_stride, m, out, out_stride);
}

// ---- rows of activations ----

/// A bit pattern is larger than any number's where x is a NaN, so that the maximum of absolute values keeps it.
inline __m256i abs_bits(__m256 x) { return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff)); }

inline float amax_of_32(const float* x) {
  const __m256i low = _mm256_max_epu32(abs_bits(_mm256_loadu_ps(x)), abs_bits(_mm256_loadu_ps(x + 8)));
  const __m256i high = _mm256_max_epu32(abs_bits(_mm256_loadu_ps(x + 16)), abs_bits(_mm256_loadu_ps(x + 24)));
  const __m256i all = _mm256_max_epu32(low, high);
  __m128i most = _mm_max_epu32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  most = _mm_max_epu32(most, _mm_shuffle_epi32(most, 0x4e));
  most = _mm_max_epu32(most, _mm_shuffle_epi32(most, 0xb1));
  return _mm_cvtss_f32(_mm_castsi128_ps(most));
}

void make_row(const float* x, const float* norm_weight, float epsilon, float skip_threshold, int64_t k, float* out) {
  int64_t c = 0;
  if (norm_weight) {
    V::Reg squares[2] = {V::zero(), V::zero()};
    for (; c + 2 * kLanes <= k; c += 2 * kLanes) {
      for (int i = 0; i < 2; ++i) {
        const V::Reg v = V::load(x + c + i * kLanes);
        squares[i] = V::fma(v, v, squares[i]);
      }
    }
    float total = V::sum(V::add(squares[0], squares[1]));
    for (; c < k; ++c) total += x[c] * x[c];
    const float scale = 1.0f / __builtin_sqrtf(total / static_cast<float>(k) + epsilon);
    for (c = 0; c + kLanes <= k; c += kLanes)
      V::store(out + c, V::mul(V::mul(V::load(x + c), V::set(scale)), V::load(norm_weight + c)));
    for (; c < k; ++c) out[c] = x[c] * scale * norm_weight[c];
  } else {
    std::memcpy(out, x, k * sizeof(float));
  }
  std::memset(out + k, 0, (padded_k(k) - k) * sizeof(float));
  if (skip_threshold <= 0) return;
  for (c = 0; c < k; c += kGroup) {
    if (amax_of_32(out + c) < skip_threshold) std::memset(out + c, 0, kGroup * sizeof(float));
  }
}

/// 32 numbers as int8 and the sum of each 16.
inline void quantize_group(const float* x, float inverse, int8_t* codes, int* sums) {
  const __m256 factor = _mm256_set1_ps(inverse);
  const auto eight = [&](int i) { return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), factor)); };
  const __m256i low = _mm256_packs_epi32(eight(0), eight(1)), high = _mm256_packs_epi32(eight(2), eight(3));
  const __m256i packed =
      _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), packed);
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), packed);
  __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  fours = _mm256_hadd_epi32(fours, fours);
  fours = _mm256_hadd_epi32(fours, fours);
  sums[0] = _mm_cvtsi128_si32(_mm256_castsi256_si128(fours));
  sums[1] = _mm_cvtsi128_si32(_mm256_extracti128_si256(fours, 1));
}

void quantize(const float* row, const QuantizedRows& to) {
  for (int64_t g = 0; g < to.k_padded / kGroup; ++g) {
    const float amax = amax_of_32(row + g * kGroup);
    const float scale = amax / 127.0f;
    int sums[2];
    // A scale that is NaN or infinite makes every result of the row so, whatever the codes.
    quantize_group(row + g * kGroup, amax > 0 ? 127.0f / amax : 0.0f, to.codes + g * kGroup, sums);
    to.scale[g] = scale;
    to.sum16[2 * g] = scale * static_cast<float>(sums[0]);
    to.sum16[2 * g + 1] = scale * static_cast<float>(sums[1]);
    to.sum32[g] = scale * static_cast<float>(sums[0] + sums[1]);
  }
}

inline V::Reg activation_of(Activation activation, V::Reg g) {
  const V::Reg one = V::set(1.0f);
  if (activation == Activation::silu) return V::div(g, V::add(one, exp_simd<V>(V::sub(V::zero(), g))));
  const V::Reg cubic = V::mul(V::mul(V::mul(g, g), g), V::set(0.044715f));
  const V::Reg t = tanh_simd<V>(V::mul(V::set(0.7978845608f), V::add(g, cubic)));
  return V::mul(V::mul(V::set(0.5f), g), V::add(one, t));
}

void activate(Activation activation, const float* g, const float* u, float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int count = n - i < kLanes ? static_cast<int>(n - i) : kLanes;
    const V::Reg value = V::mul(activation_of(activation, V::load_part(g + i, count)), V::load_part(u + i, count));
    V::store_part(y + i, value, count);
  }
}

// ---- the table of this instruction set ----

template <WeightFormat kFormat>
constexpr FormatKernels coded_kernels() {
  using C = Codec<kFormat>;
  return {gemv_int<C>, nullptr, unpack_codes<C>, gemm_int<C>, gemv_f32<CodedRow<C>>, unpack_f32<CodedRow<C>>};
}
template <WeightFormat kFormat>
constexpr FormatKernels float_kernels() {
  using Row = FloatRow<kFormat>;
  return {nullptr, nullptr, nullptr, nullptr, gemv_f32<Row>, unpack_f32<Row>};
}

constexpr LinearKernelSet make_kernel_set() {
  using enum WeightFormat;
  LinearKernelSet set{
      {kLanes, make_row, quantize, activate, gemm_f32},
      {float_kernels<f32>(), float_kernels<f16>(), float_kernels<bf16>(), coded_kernels<q4_0>(), coded_kernels<q4_1>(),
       coded_kernels<q5_0>(), coded_kernels<q5_1>(), coded_kernels<q8_0>(), coded_kernels<q2_k>(),
       coded_kernels<q3_k>(), coded_kernels<q4_k>(), coded_kernels<q5_k>(), coded_kernels<q6_k>(),
       coded_kernels<iq4_nl>(), coded_kernels<iq4_xs>(), coded_kernels<mxfp4>(), coded_kernels<nvfp4>()}};
  set.formats[static_cast<int>(q8_0)].gemv_skip = gemv_skip_q8_0;
  return set;
}

}  // namespace
}  // namespace imp::cpu
