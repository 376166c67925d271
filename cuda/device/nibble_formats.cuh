#pragma once
#include <cuda_fp16.h>

#include <cstdint>

#include "device/load.cuh"
#include "quant/blocks.h"

namespace imp::cuda {

// The formats with 4-bit codes that are packed as they are (linear/packed_weight.h), one struct each: what all kernels
// need to know of them. Weights of a block are 16 bytes, four words; of word i
//   half(word, 0) has weights 4i .. 4i + 3 and half(word, 1) weights 4i + 16 .. 4i + 19,
// a signed byte each, times 2^kShift; dot() adds the products with 8 int8 activations to two sums. A weight is s *
// code, or s * code + m where kMin, in dequantize()'s operations.
//
//   kScaleBytes  beside each block: `raw` of scales()
//   kSupers      `raw` is a signed byte, which multiplies the f16 `d` of 8 blocks; such rows are whole supers
//   kPerSixteen  a scale for each 16 weights; scales() then gives two that may differ

struct NibbleScales {
  float s, second;  // of weights 0 .. 15, 16 .. 31
  float m;
};

__device__ __forceinline__ float half_to_float(uint32_t bits) {
  return __half2float(__ushort_as_half(static_cast<uint16_t>(bits)));
}

/// `kBytes` of scales as one number, from global memory.
template <int kBytes>
__device__ __forceinline__ uint32_t load_stream_scale(const uint8_t* p) {
  if constexpr (kBytes == 1) return load_stream_1(p);
  if constexpr (kBytes == 2) return load_stream_2(p);
  return load_stream_4(p);
}
/// The same from shared memory.
template <int kBytes>
__device__ __forceinline__ uint32_t read_scale(const uint8_t* p) {
  if constexpr (kBytes == 1) return *p;
  if constexpr (kBytes == 2) return *reinterpret_cast<const uint16_t*>(p);
  return *reinterpret_cast<const uint32_t*>(p);
}

/// Byte k is byte (selector >> 4k) & 7 of `low`, `high`; where bit 3 of the selector is set it is that byte's sign
/// eight times instead.
__device__ __forceinline__ uint32_t permute(uint32_t low, uint32_t high, uint32_t selector) {
  uint32_t result;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(low), "r"(high), "r"(selector));
  return result;
}

/// Tables of 16 values for permute(), which finds 8: one table for codes without bit 3, one for those with it. Code c
/// is stored as c / 2, its lowest bit as bit 3, so that the two values at one place of the tables have one sign. A
/// code that looks into the wrong table finds 0 or -1 there, the sign of what is at its place, and the right table
/// makes up for it:
///   of_xor: the value is what the tables give, one ^ the other
///   of_sum: it is their sum (which dot products take as two)
struct LookUp {
  uint32_t of_xor[2][2] = {}, of_sum[2][2] = {};  // [table][word]
  constexpr explicit LookUp(const int8_t (&values)[16]) {
    for (int place = 0; place < 8; ++place) {
      // A zero beside a negative value is the negative zero of FP4; packing stores the other one.
      const int second = values[place * 2 + 1], first = second < 0 && values[place * 2] == 0 ? -1 : values[place * 2];
      const int sum_first = second < 0 ? first + 1 : first;
      put(of_xor[0], place, first);
      put(of_xor[1], place, second < 0 ? ~second : second);
      put(of_sum[0], place, sum_first);
      put(of_sum[1], place, sum_first < 0 ? second + 1 : second);
    }
  }

  /// Whether every code of `values` is found; what permute() does, in words of one byte.
  constexpr bool finds(const int8_t (&values)[16]) const {
    for (int code = 0; code < 16; ++code) {
      const int place = code / 2, table = code % 2;
      const auto at = [&](const uint32_t(&of)[2], bool sign) {
        const auto byte = static_cast<int8_t>(of[place / 4] >> (place % 4 * 8));
        return sign ? (byte < 0 ? -1 : 0) : byte;
      };
      const bool replaced = values[code] == 0 && code == 8;
      if (!replaced && ((at(of_xor[0], table == 1) ^ at(of_xor[1], table == 0)) != values[code] ||
                        at(of_sum[0], table == 1) + at(of_sum[1], table == 0) != values[code]))
        return false;
    }
    return true;
  }

 private:
  static constexpr void put(uint32_t (&table)[2], int place, int value) {
    table[place / 4] |= uint32_t{static_cast<uint8_t>(value)} << (place % 4 * 8);
  }
};

/// Codes that stand for values of a table. The low half of word i has weights 4i .. 4i + 3, lowest first, the upper
/// half weights 4i + 16 .. 4i + 19.
template <class Values>
struct LookedUp {
  static constexpr LookUp kTable{Values::kValues};
  static constexpr uint32_t kXor0 = kTable.of_xor[0][0], kXor1 = kTable.of_xor[0][1];
  static constexpr uint32_t kXor2 = kTable.of_xor[1][0], kXor3 = kTable.of_xor[1][1];
  static constexpr uint32_t kSum0 = kTable.of_sum[0][0], kSum1 = kTable.of_sum[0][1];
  static constexpr uint32_t kSum2 = kTable.of_sum[1][0], kSum3 = kTable.of_sum[1][1];
  static constexpr uint32_t kBit3 = 0x88888888u;

  __device__ __forceinline__ static uint32_t half(uint32_t word, int half) {
    return permute(kXor0, kXor1, word >> (half * 16)) ^ permute(kXor2, kXor3, (word ^ kBit3) >> (half * 16));
  }
  __device__ __forceinline__ static void dot(uint32_t word, int x_low, int x_high, int& low, int& high) {
    const uint32_t other = word ^ kBit3;
    low = __dp4a(static_cast<int>(permute(kSum0, kSum1, word)), x_low, low);
    low = __dp4a(static_cast<int>(permute(kSum2, kSum3, other)), x_low, low);
    high = __dp4a(static_cast<int>(permute(kSum0, kSum1, word >> 16)), x_high, high);
    high = __dp4a(static_cast<int>(permute(kSum2, kSum3, other >> 16)), x_high, high);
  }
};
struct IQ4Values {
  static constexpr const int8_t (&kValues)[16] = kIQ4Values;
};
struct E2M1Values {
  static constexpr const int8_t (&kValues)[16] = kE2M1Doubled;
};
static_assert(LookUp(kIQ4Values).finds(kIQ4Values) && LookUp(kE2M1Doubled).finds(kE2M1Doubled));

/// Codes that are numbers.
template <class Format>
struct Direct {
  __device__ __forceinline__ static void dot(uint32_t word, int x_low, int x_high, int& low, int& high) {
    low = __dp4a(static_cast<int>(Format::half(word, 0)), x_low, low);
    high = __dp4a(static_cast<int>(Format::half(word, 1)), x_high, high);
  }
};

/// Codes are q - 8 in two's complement, low nibbles weights 0 .. 15: as the upper half of a byte they are 16 times
/// that.
struct NibbleQ4_0 : Direct<NibbleQ4_0> {
  static constexpr int kScaleBytes = 2, kShift = 4;
  static constexpr bool kSupers = false, kPerSixteen = false, kMin = false;
  __device__ __forceinline__ static uint32_t half(uint32_t word, int half) {
    return (half ? word : word << 4) & 0xf0f0f0f0u;
  }
  __device__ __forceinline__ static NibbleScales scales(uint32_t raw, float) {
    const float d = half_to_float(raw);
    return {d, d, 0};
  }
};

/// d and m side by side.
struct NibbleQ4_1 : Direct<NibbleQ4_1> {
  static constexpr int kScaleBytes = 4, kShift = 0;
  static constexpr bool kSupers = false, kPerSixteen = false, kMin = true;
  __device__ __forceinline__ static uint32_t half(uint32_t word, int half) {
    return (word >> (half * 4)) & 0x0f0f0f0fu;
  }
  __device__ __forceinline__ static NibbleScales scales(uint32_t raw, float) {
    const float d = half_to_float(raw);
    return {d, d, half_to_float(raw >> 16)};
  }
};

struct NibbleIQ4NL : LookedUp<IQ4Values> {
  static constexpr int kScaleBytes = 2, kShift = 0;
  static constexpr bool kSupers = false, kPerSixteen = false, kMin = false;
  __device__ __forceinline__ static NibbleScales scales(uint32_t raw, float) {
    const float d = half_to_float(raw);
    return {d, d, 0};
  }
};

/// A signed byte a block, times the d of 8 blocks.
struct NibbleIQ4XS : LookedUp<IQ4Values> {
  static constexpr int kScaleBytes = 1, kShift = 0;
  static constexpr bool kSupers = true, kPerSixteen = false, kMin = false;
  __device__ __forceinline__ static NibbleScales scales(uint32_t raw, float d) {
    // 2^23 + 128 + the byte has its bits at the end of the mantissa; a conversion takes longer.
    const float s = d * (__uint_as_float(0x4b000000u | (raw ^ 0x80u)) - (0x1p23f + 128));
    return {s, s, 0};
  }
};

/// An exponent e a block: 2^(e - 128), for codes are twice their value. Subnormal where e is 0 or 1.
struct NibbleMXFP4 : LookedUp<E2M1Values> {
  static constexpr int kScaleBytes = 1, kShift = 0;
  static constexpr bool kSupers = false, kPerSixteen = false, kMin = false;
  __device__ __forceinline__ static NibbleScales scales(uint32_t raw, float) {
    const float s = __uint_as_float(raw < 2 ? 0x00200000u << raw : (raw - 1) << 23);
    return {s, s, 0};
  }
};

/// Two UE4M3 numbers a block, with the code that stands for 0 besides 0 itself made 0, and all others without bit 7.
/// Their bits, as those of an fp32, are 2^-120 of their value, subnormal ones too; halved, for codes are doubled.
struct NibbleNVFP4 : LookedUp<E2M1Values> {
  static constexpr int kScaleBytes = 2, kShift = 0;
  static constexpr bool kSupers = false, kPerSixteen = true, kMin = false;
  __device__ __forceinline__ static NibbleScales scales(uint32_t raw, float) {
    return {__uint_as_float((raw & 127) << 20) * 0x1p119f, __uint_as_float((raw >> 8) << 20) * 0x1p119f, 0};
  }
};

}  // namespace imp::cuda
