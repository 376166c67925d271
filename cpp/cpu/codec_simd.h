#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "quant/blocks.h"
#include "quant/format.h"

// How each quantized format unpacks, 32 weights at a time: w = scale * (code - kZero) - min with unsigned byte codes.
// AVX2 intrinsics, so that both instruction sets share them. Everything here is in an anonymous namespace: each source
// that includes it is compiled for its own instruction set and must keep its own copy.
//
// A codec works on a chunk of 256 weights (one block of the K formats, 8 blocks of 32):
//   kSub        weights that share a scale: 32 or 16
//   kHasMin     whether there is a min
//   scales<N>() scale and min of the sub-groups of the first N groups; [1] holds sub-groups 8..15 of 16-wide formats
//   codes(g)    the 32 codes of group g, in order

namespace imp::cpu {
namespace {

struct ChunkScales {
  __m256 scale[2];
  __m256 min[2];
};

inline __m256i load_256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m256i load_128_twice(const void* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
template <class T>
inline T load_as(const void* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

inline float f16_at(const void* p) { return _cvtsh_ss(load_as<uint16_t>(p)); }

/// The f16 at the same place of N blocks, `kStride` bytes apart; zeros for the rest.
template <int N, int kStride>
inline __m256 f16_of_blocks(const uint8_t* p) {
  const auto at = [p](int i) -> short { return i < N ? load_as<short>(p + i * kStride) : 0; };
  return _mm256_cvtph_ps(_mm_setr_epi16(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)));
}

inline __m256 floats_of_bytes(uint64_t bytes) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(bytes))));
}
inline __m256 floats_of_signed_bytes(uint64_t bytes) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(bytes))));
}

/// 16 bytes -> 32 nibbles: the low ones, then the high ones.
inline __m256i nibbles(const void* p) {
  const __m256i shifted = _mm256_srlv_epi64(load_128_twice(p), _mm256_setr_epi64x(0, 0, 4, 4));
  return _mm256_and_si256(shifted, _mm256_set1_epi8(15));
}
/// Nibble `high` (0 or 1) of each of 32 bytes.
inline __m256i nibbles_of(__m256i bytes, int high) {
  return _mm256_and_si256(_mm256_srli_epi16(bytes, 4 * high), _mm256_set1_epi8(15));
}
inline __m256i look_up(const int8_t (&table)[16], int8_t offset, __m256i index) {
  const __m256i values = _mm256_add_epi8(load_128_twice(table), _mm256_set1_epi8(offset));
  return _mm256_shuffle_epi8(values, index);
}

/// codes, plus `bit` in byte i where bit i of `mask` is set.
inline __m256i or_bits(__m256i codes, uint32_t mask, int8_t bit) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  return _mm256_mask_add_epi8(codes, mask, codes, _mm256_set1_epi8(bit));
#else
  const __m256i spread =
      _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(mask)),
                          _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303));
  const __m256i select = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
  const __m256i is_set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, select), select);
  return _mm256_or_si256(codes, _mm256_and_si256(is_set, _mm256_set1_epi8(bit)));
#endif
}

template <WeightFormat kFormat>
struct Codec;

template <>
struct Codec<WeightFormat::q4_0> {
  static constexpr int kBlock = 32, kBytes = sizeof(BlockQ4_0), kSub = 32, kZero = 8;
  static constexpr bool kHasMin = false;
  template <int N>
  static ChunkScales scales(const uint8_t* w) {
    return {{f16_of_blocks<N, kBytes>(w)}, {}};
  }
  static __m256i codes(const uint8_t* w, int g) { return nibbles(w + g * kBytes + 2); }
};

template <>
struct Codec<WeightFormat::q4_1> {
  static constexpr int kBlock = 32, kBytes = sizeof(BlockQ4_1), kSub = 32, kZero = 0;
  static constexpr bool kHasMin = true;
  template <int N>
  static ChunkScales scales(const uint8_t* w) {
    const __m256 min = f16_of_blocks<N, kBytes>(w + 2);
    return {{f16_of_blocks<N, kBytes>(w)}, {_mm256_sub_ps(_mm256_setzero_ps(), min)}};
  }
  static __m256i codes(const uint8_t* w, int g) { return nibbles(w + g * kBytes + 4); }
};

template <>
struct Codec<WeightFormat::q5_0> {
  static constexpr int kBlock = 32, kBytes = sizeof(BlockQ5_0), kSub = 32, kZero = 16;
  static constexpr bool kHasMin = false;
  template <int N>
  static ChunkScales scales(const uint8_t* w) {
    return {{f16_of_blocks<N, kBytes>(w)}, {}};
  }
  static __m256i codes(const uint8_t* w, int g) {
    const uint8_t* block = w + g * kBytes;
    return or_bits(nibbles(block + 6), load_as<uint32_t>(block + 2), 16);
  }
};

template <>
struct Codec<WeightFormat::q5_1> {
  static constexpr int kBlock = 32, kBytes = sizeof(BlockQ5_1), kSub = 32, kZero = 0;
  static constexpr bool kHasMin = true;
  template <int N>
  static ChunkScales scales(const uint8_t* w) {
    const __m256 min = f16_of_blocks<N, kBytes>(w + 2);
    return {{f16_of_blocks<N, kBytes>(w)}, {_mm256_sub_ps(_mm256_setzero_ps(), min)}};
  }
  static __m256i codes(const uint8_t* w, int g) {
    const uint8_t* block = w + g * kBytes;
    return or_bits(nibbles(block + 8), load_as<uint32_t>(block + 4), 16);
  }
};

template <>
struct Codec<WeightFormat::q8_0> {
  static constexpr int kBlock = 32, kBytes = sizeof(BlockQ8_0), kSub = 32, kZero = 128;
  static constexpr bool kHasMin = false;
  template <int N>
  static ChunkScales scales(const uint8_t* w) {
    return {{f16_of_blocks<N, kBytes>(w)}, {}};
  }
  static __m256i codes(const uint8_t* w, int g) {
    return _mm256_xor_si256(load_256(w + g * kBytes + 2), _mm256_set1_epi8(-128));
  }
};

template <>
struct Codec<WeightFormat::iq4_nl> {
  static constexpr int kBlock = 32, kBytes = sizeof(BlockIQ4NL), kSub = 32, kZero = 128;
  static constexpr bool kHasMin = false;
  template <int N>
  static ChunkScales scales(const uint8_t* w) {
    return {{f16_of_blocks<N, kBytes>(w)}, {}};
  }
  static __m256i codes(const uint8_t* w, int g) { return look_up(kIQ4Values, -128, nibbles(w + g * kBytes + 2)); }
};

template <>
struct Codec<WeightFormat::mxfp4> {
  static constexpr int kBlock = 32, kBytes = sizeof(BlockMXFP4), kSub = 32, kZero = 12;
  static constexpr bool kHasMin = false;
  template <int N>
  static ChunkScales scales(const uint8_t* w) {
    // 2^(e - 128), subnormal for e < 2.
    const auto at = [w](int i) -> int {
      if (i >= N) return 0;
      const int e = w[i * kBytes];
      return e < 2 ? 0x00200000 << e : (e - 1) << 23;
    };
    return {{_mm256_castsi256_ps(_mm256_setr_epi32(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)))}, {}};
  }
  static __m256i codes(const uint8_t* w, int g) { return look_up(kE2M1Doubled, 12, nibbles(w + g * kBytes + 1)); }
};

template <>
struct Codec<WeightFormat::nvfp4> {
  static constexpr int kBlock = 64, kBytes = sizeof(BlockNVFP4), kSub = 16, kZero = 12;
  static constexpr bool kHasMin = false;
  /// Half of the ue4m3 value of 8 bytes; 0x7f counts as 0, bit 7 is ignored.
  static __m256 half_ue4m3(uint64_t bytes) {
    const __m256i wide = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(bytes)));
    const __m256i not_nan = _mm256_xor_si256(_mm256_cmpeq_epi32(wide, _mm256_set1_epi32(0x7f)), _mm256_set1_epi32(-1));
    const __m256i bits = _mm256_and_si256(_mm256_and_si256(wide, _mm256_set1_epi32(0x7f)), not_nan);
    const __m256 small = _mm256_castsi256_ps(_mm256_slli_epi32(bits, 20));
    return _mm256_mul_ps(small, _mm256_set1_ps(0x1p119f));  // exponent bias 127 - 7, and a half
  }
  template <int N>
  static ChunkScales scales(const uint8_t* w) {
    const auto at = [w](int i) -> uint64_t { return 2 * i < N ? load_as<uint32_t>(w + i * kBytes) : 0; };
    return {{half_ue4m3(at(0) | at(1) << 32), half_ue4m3(at(2) | at(3) << 32)}, {}};
  }
  static __m256i codes(const uint8_t* w, int g) {
    const __m256i halves = nibbles(w + (g / 2) * kBytes + 4 + (g % 2) * 16);
    return look_up(kE2M1Doubled, 12, _mm256_permute4x64_epi64(halves, 0xd8));
  }
};

template <>
struct Codec<WeightFormat::q2_k> {
  static constexpr int kBlock = 256, kBytes = sizeof(BlockQ2K), kSub = 16, kZero = 0;
  static constexpr bool kHasMin = true;
  template <int N>
  static ChunkScales scales(const uint8_t* w) {
    const __m256 d = _mm256_set1_ps(f16_at(w + 80)), dmin = _mm256_set1_ps(f16_at(w + 82));
    const uint64_t low = load_as<uint64_t>(w), high = load_as<uint64_t>(w + 8);
    constexpr uint64_t kNibbles = 0x0f0f0f0f0f0f0f0f;
    return {{_mm256_mul_ps(d, floats_of_bytes(low & kNibbles)), _mm256_mul_ps(d, floats_of_bytes(high & kNibbles))},
            {_mm256_mul_ps(dmin, floats_of_bytes(low >> 4 & kNibbles)),
             _mm256_mul_ps(dmin, floats_of_bytes(high >> 4 & kNibbles))}};
  }
  static __m256i codes(const uint8_t* w, int g) {
    const __m256i shifted = _mm256_srli_epi16(load_256(w + 16 + g / 4 * 32), 2 * (g % 4));
    return _mm256_and_si256(shifted, _mm256_set1_epi8(3));
  }
};

template <>
struct Codec<WeightFormat::q3_k> {
  static constexpr int kBlock = 256, kBytes = sizeof(BlockQ3K), kSub = 16, kZero = 4;
  static constexpr bool kHasMin = false;
  template <int N>
  static ChunkScales scales(const uint8_t* w) {
    const __m256 d = _mm256_set1_ps(f16_at(w + 108));
    const uint64_t nibble_pairs = load_as<uint64_t>(w + 96), tops = load_as<uint32_t>(w + 104);
    constexpr uint64_t kNibbles = 0x0f0f0f0f0f0f0f0f, kPairs = 0x3030303030303030;
    const uint64_t low = (nibble_pairs & kNibbles) | ((tops << 4 | tops << 34) & kPairs);
    const uint64_t high = (nibble_pairs >> 4 & kNibbles) | ((tops | tops << 30) & kPairs);
    const __m256 offset = _mm256_set1_ps(32);
    return {{_mm256_mul_ps(d, _mm256_sub_ps(floats_of_bytes(low), offset)),
             _mm256_mul_ps(d, _mm256_sub_ps(floats_of_bytes(high), offset))},
            {}};
  }
  static __m256i codes(const uint8_t* w, int g) {
    const __m256i low = _mm256_srli_epi16(load_256(w + 32 + g / 4 * 32), 2 * (g % 4));
    const __m256i top = _mm256_srli_epi16(load_256(w), g);
    return _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(3)),
                           _mm256_slli_epi16(_mm256_and_si256(top, _mm256_set1_epi8(1)), 2));
  }
};

/// Scales and mins of Q4_K and Q5_K.
inline ChunkScales scales_q4_k(const uint8_t* w) {
  const __m256 d = _mm256_set1_ps(f16_at(w)), dmin = _mm256_set1_ps(f16_at(w + 2));
  const auto a = load_as<uint32_t>(w + 4), b = load_as<uint32_t>(w + 8), c = load_as<uint32_t>(w + 12);
  const uint32_t scale_high = (c & 0x0f0f0f0f) | (a >> 2 & 0x30303030);
  const uint32_t min_high = (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030);
  const uint64_t scale = (a & 0x3f3f3f3f) | static_cast<uint64_t>(scale_high) << 32;
  const uint64_t min = (b & 0x3f3f3f3f) | static_cast<uint64_t>(min_high) << 32;
  return {{_mm256_mul_ps(d, floats_of_bytes(scale))}, {_mm256_mul_ps(dmin, floats_of_bytes(min))}};
}

template <>
struct Codec<WeightFormat::q4_k> {
  static constexpr int kBlock = 256, kBytes = sizeof(BlockQ4K), kSub = 32, kZero = 0;
  static constexpr bool kHasMin = true;
  template <int N>
  static ChunkScales scales(const uint8_t* w) {
    return scales_q4_k(w);
  }
  static __m256i codes(const uint8_t* w, int g) { return nibbles_of(load_256(w + 16 + g / 2 * 32), g % 2); }
};

template <>
struct Codec<WeightFormat::q5_k> {
  static constexpr int kBlock = 256, kBytes = sizeof(BlockQ5K), kSub = 32, kZero = 0;
  static constexpr bool kHasMin = true;
  template <int N>
  static ChunkScales scales(const uint8_t* w) {
    return scales_q4_k(w);
  }
  static __m256i codes(const uint8_t* w, int g) {
    const __m256i top = _mm256_and_si256(_mm256_srli_epi16(load_256(w + 16), g), _mm256_set1_epi8(1));
    return _mm256_or_si256(nibbles_of(load_256(w + 48 + g / 2 * 32), g % 2), _mm256_slli_epi16(top, 4));
  }
};

template <>
struct Codec<WeightFormat::q6_k> {
  static constexpr int kBlock = 256, kBytes = sizeof(BlockQ6K), kSub = 16, kZero = 32;
  static constexpr bool kHasMin = false;
  template <int N>
  static ChunkScales scales(const uint8_t* w) {
    const __m256 d = _mm256_set1_ps(f16_at(w + 208));
    return {{_mm256_mul_ps(d, floats_of_signed_bytes(load_as<uint64_t>(w + 192))),
             _mm256_mul_ps(d, floats_of_signed_bytes(load_as<uint64_t>(w + 200)))},
            {}};
  }
  static __m256i codes(const uint8_t* w, int g) {
    const __m256i low = nibbles_of(load_256(w + g / 4 * 64 + g % 2 * 32), g % 4 / 2);
    const __m256i top = _mm256_srli_epi16(load_256(w + 128 + g / 4 * 32), 2 * (g % 4));
    return _mm256_or_si256(low, _mm256_slli_epi16(_mm256_and_si256(top, _mm256_set1_epi8(3)), 4));
  }
};

template <>
struct Codec<WeightFormat::iq4_xs> {
  static constexpr int kBlock = 256, kBytes = sizeof(BlockIQ4XS), kSub = 32, kZero = 128;
  static constexpr bool kHasMin = false;
  template <int N>
  static ChunkScales scales(const uint8_t* w) {
    const __m256i shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    const __m256i low = _mm256_srlv_epi32(_mm256_set1_epi32(load_as<int>(w + 4)), shifts);
    const __m256i high = _mm256_srlv_epi32(_mm256_set1_epi32(load_as<uint16_t>(w + 2)), _mm256_srli_epi32(shifts, 1));
    const __m256i both = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)),
                                         _mm256_slli_epi32(_mm256_and_si256(high, _mm256_set1_epi32(3)), 4));
    const __m256 scale = _mm256_cvtepi32_ps(_mm256_sub_epi32(both, _mm256_set1_epi32(32)));
    return {{_mm256_mul_ps(_mm256_set1_ps(f16_at(w)), scale)}, {}};
  }
  static __m256i codes(const uint8_t* w, int g) { return look_up(kIQ4Values, -128, nibbles(w + 8 + g * 16)); }
};

}  // namespace
}  // namespace imp::cpu
