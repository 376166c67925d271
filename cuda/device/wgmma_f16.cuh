#pragma once
#include <cstdint>

#include "device/wgmma.cuh"

namespace imp::cuda {

/// Several swizzled tiles side by side, `panel_bytes` apart, 64 columns each, with n along their rows: the b operand of
/// WgmmaF16::add(). A further 16 of k, that is of rows, is 2048 bytes on.
__device__ __forceinline__ uint64_t wgmma_panels_descriptor(uint32_t shared_address, uint32_t panel_bytes) {
  return (wgmma_descriptor(shared_address) & ~(uint64_t{0x3fff} << 16)) | uint64_t{panel_bytes >> 4} << 16;
}
/// Keeps the compiler from moving uses of `values` across this point: before it they belong to a running product.
template <int kCount>
__device__ __forceinline__ void keep_in_place(float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(values[i])::"memory");
}

/// The instruction of device/wgmma.cuh with f16 in, for kN columns.
template <int kN>
struct WgmmaF16 {
  /// d (+)= a * b; both in shared memory, rows along k.
  static __device__ void multiply(float (&d)[kN / 2], uint64_t a, uint64_t b, bool accumulate);
  /// d += a * b; a as four registers of mma_16816, b in shared memory, transposed.
  static __device__ void add(float (&d)[kN / 2], const uint32_t* a, uint64_t b);
};

// clang-format off
#define IMP_F8(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), \
                     "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
template <>
__device__ __forceinline__ void WgmmaF16<64>::multiply(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
               "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,"
               "%30,%31}, "
               "%32, %33, p, 1, 1, 0, 0;\n}\n"
               : IMP_F8(d, 0), IMP_F8(d, 8), IMP_F8(d, 16), IMP_F8(d, 24)
               : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}
template <>
__device__ __forceinline__ void WgmmaF16<64>::add(float (&d)[32], const uint32_t* a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
               "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,"
               "%30,%31}, "
               "{%32,%33,%34,%35}, %36, 1, 1, 1, 1;\n"
               : IMP_F8(d, 0), IMP_F8(d, 8), IMP_F8(d, 16), IMP_F8(d, 24)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
template <>
__device__ __forceinline__ void WgmmaF16<128>::multiply(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
               "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,"
               "%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,"
               "%58,%59,%60,%61,%62,%63}, "
               "%64, %65, p, 1, 1, 0, 0;\n}\n"
               : IMP_F8(d, 0), IMP_F8(d, 8), IMP_F8(d, 16), IMP_F8(d, 24), IMP_F8(d, 32), IMP_F8(d, 40), IMP_F8(d, 48), IMP_F8(d, 56)
               : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}
template <>
__device__ __forceinline__ void WgmmaF16<128>::add(float (&d)[64], const uint32_t* a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
               "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,"
               "%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,"
               "%58,%59,%60,%61,%62,%63}, "
               "{%64,%65,%66,%67}, %68, 1, 1, 1, 1;\n"
               : IMP_F8(d, 0), IMP_F8(d, 8), IMP_F8(d, 16), IMP_F8(d, 24), IMP_F8(d, 32), IMP_F8(d, 40), IMP_F8(d, 48), IMP_F8(d, 56)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
template <>
__device__ __forceinline__ void WgmmaF16<256>::multiply(float (&d)[128], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 "
               "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,"
               "%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,"
               "%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,"
               "%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,"
               "%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}, "
               "%128, %129, p, 1, 1, 0, 0;\n}\n"
               : IMP_F8(d, 0), IMP_F8(d, 8), IMP_F8(d, 16), IMP_F8(d, 24), IMP_F8(d, 32), IMP_F8(d, 40), IMP_F8(d, 48), IMP_F8(d, 56), IMP_F8(d, 64), IMP_F8(d, 72), IMP_F8(d, 80), IMP_F8(d, 88), IMP_F8(d, 96), IMP_F8(d, 104), IMP_F8(d, 112), IMP_F8(d, 120)
               : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}
template <>
__device__ __forceinline__ void WgmmaF16<256>::add(float (&d)[128], const uint32_t* a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 "
               "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,"
               "%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,"
               "%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,"
               "%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,"
               "%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}, "
               "{%128,%129,%130,%131}, %132, 1, 1, 1, 1;\n"
               : IMP_F8(d, 0), IMP_F8(d, 8), IMP_F8(d, 16), IMP_F8(d, 24), IMP_F8(d, 32), IMP_F8(d, 40), IMP_F8(d, 48), IMP_F8(d, 56), IMP_F8(d, 64), IMP_F8(d, 72), IMP_F8(d, 80), IMP_F8(d, 88), IMP_F8(d, 96), IMP_F8(d, 104), IMP_F8(d, 112), IMP_F8(d, 120)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
#undef IMP_F8
// clang-format on

}  // namespace imp::cuda
