#pragma once
#include <cstdint>

namespace imp::cuda {

// Integer products on the tensor cores (mma.sync, sm_80 and later). Lane l holds of a[16 x 32]: rows l/4 and l/4 + 8,
// bytes 4(l%4) .. + 3 and the same + 16; of b[32 x 8]: column l/4, the same k; of c[16 x 8]: rows l/4 and l/4 + 8,
// columns 2(l%4) + {0, 1}.

/// Where sums start: the bits of 1.5 * 2^23, so that a sum below 2^22 in size, read as a float, is 1.5 * 2^23 + sum.
/// fma(that, s, -1.5 * 2^23 * s) is s * sum in one rounding if s has at most 22 significant bits.
inline constexpr int kMagicBits = 0x4b400000;
inline constexpr float kMagic = 12582912.0f;

/// c = magic + a[16 x 32] * b[32 x 8]
__device__ __forceinline__ void mma_s8_k32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  int r[4];
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
      : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(kMagicBits));
#pragma unroll
  for (int i = 0; i < 4; ++i) c[i] = __int_as_float(r[i]);
}
/// c = magic + a[16 x 16] * b[16 x 8]; a0 has rows l/4, a1 rows l/4 + 8.
__device__ __forceinline__ void mma_s8_k16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) {
  int r[4];
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%7,%7,%7};"
      : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
      : "r"(a0), "r"(a1), "r"(b), "r"(kMagicBits));
#pragma unroll
  for (int i = 0; i < 4; ++i) c[i] = __int_as_float(r[i]);
}

/// Matrices of 8 rows of 16 bytes from shared memory; lane l gets bytes 4(l%4) .. + 3 of row l/4 of each. Lane l gives
/// the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_rows_x4(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}
__device__ __forceinline__ void load_rows_x2(uint32_t& r0, uint32_t& r1, uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r0), "=r"(r1) : "r"(address));
}

}  // namespace imp::cuda
