#pragma once
#include <cstdint>

namespace imp::cuda {

// Hopper's warpgroup matrix instruction (sm_90a): d[64 x n] (+)= a[64 x 16] * b[16 x n], bf16 in, fp32 sums, run in the
// background for the 128 threads of a warpgroup. Thread t = 32w + l of it holds of d: d[4j + {0,1}] = row 16w + l/4,
// columns 8j + 2(l%4) + {0,1}; d[4j + {2,3}] = the same columns of row + 8. A in registers lies like A of mma m16n8k16,
// 16 rows a warp.

/// A tile in shared memory, rows of 128 bytes (64 16-bit elements) in the 128-byte swizzle: 16-byte chunk c of row r is
/// at r * 128 + (c ^ r % 8) * 16, 8 rows form an atom of 1024 bytes, and the tile starts at a multiple of 1024. K runs
/// along the rows; a further 16 of k is `descriptor + 2` (32 bytes / 16).
__device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t shared_address) {
  return uint64_t{(shared_address & 0x3ffff) >> 4} | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}

/// Registers and shared memory written before are visible to the wgmma after it.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits until at most kPending committed groups still run.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

/// More registers for this warpgroup, from those that others gave back. Every warp of the warpgroup calls it.
template <int kRegisters>
__device__ __forceinline__ void registers_take() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void registers_give() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// clang-format off
#define IMP_D8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define IMP_D32(i) IMP_D8(i), IMP_D8(i + 8), IMP_D8(i + 16), IMP_D8(i + 24)
#define IMP_D64(i) IMP_D32(i), IMP_D32(i + 32)
#define IMP_D128(i) IMP_D64(i), IMP_D64(i + 64)
#define IMP_R32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define IMP_R64 IMP_R32 \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define IMP_R128 IMP_R64 \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95" \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// One instruction from its parts: n, its registers as text and as operands, and the numbers of the operands behind them.
#define IMP_WGMMA_SHARED(n, regs, operands, at, bt, pt, tt)                                          \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, " pt ", 0; "                                          \
               "wgmma.mma_async.sync.aligned.m64n" n "k16.f32.bf16.bf16 {" regs "}, " at ", " bt     \
               ", p, 1, 1, 0, " tt "; }"                                                             \
               : operands : "l"(a_tile), "l"(b_tile), "r"(static_cast<int>(accumulate)), "n"(kTransposedB ? 1 : 0))
#define IMP_WGMMA_REGISTERS(n, regs, operands, at, bt, pt, tt)                                       \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, " pt ", 0; "                                          \
               "wgmma.mma_async.sync.aligned.m64n" n "k16.f32.bf16.bf16 {" regs "}, {" at "}, " bt   \
               ", p, 1, 1, " tt "; }"                                                                \
               : operands : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b_tile),                 \
                 "r"(static_cast<int>(accumulate)), "n"(kTransposedB ? 1 : 0))

/// Both operands in shared memory; 64, 128 or 256 columns by the size of d. kTransposedB: b lies with n along its rows.
template <bool kTransposedB = false>
__device__ __forceinline__ void wgmma_bf16(float (&d)[32], uint64_t a_tile, uint64_t b_tile, bool accumulate) {
  IMP_WGMMA_SHARED("64", IMP_R32, IMP_D32(0), "%32", "%33", "%34", "%35");
}
template <bool kTransposedB = false>
__device__ __forceinline__ void wgmma_bf16(float (&d)[64], uint64_t a_tile, uint64_t b_tile, bool accumulate) {
  IMP_WGMMA_SHARED("128", IMP_R64, IMP_D64(0), "%64", "%65", "%66", "%67");
}
template <bool kTransposedB = false>
__device__ __forceinline__ void wgmma_bf16(float (&d)[128], uint64_t a_tile, uint64_t b_tile, bool accumulate) {
  IMP_WGMMA_SHARED("256", IMP_R128, IMP_D128(0), "%128", "%129", "%130", "%131");
}

/// A in registers. They may not change before wgmma_wait() says that the instruction is done.
template <bool kTransposedB = false>
__device__ __forceinline__ void wgmma_bf16(float (&d)[32], const uint32_t (&a)[4], uint64_t b_tile, bool accumulate) {
  IMP_WGMMA_REGISTERS("64", IMP_R32, IMP_D32(0), "%32, %33, %34, %35", "%36", "%37", "%38");
}
template <bool kTransposedB = false>
__device__ __forceinline__ void wgmma_bf16(float (&d)[64], const uint32_t (&a)[4], uint64_t b_tile, bool accumulate) {
  IMP_WGMMA_REGISTERS("128", IMP_R64, IMP_D64(0), "%64, %65, %66, %67", "%68", "%69", "%70");
}
template <bool kTransposedB = false>
__device__ __forceinline__ void wgmma_bf16(float (&d)[128], const uint32_t (&a)[4], uint64_t b_tile, bool accumulate) {
  IMP_WGMMA_REGISTERS("256", IMP_R128, IMP_D128(0), "%128, %129, %130, %131", "%132", "%133", "%134");
}

#undef IMP_D8
#undef IMP_D32
#undef IMP_D64
#undef IMP_D128
#undef IMP_R32
#undef IMP_R64
#undef IMP_R128
#undef IMP_WGMMA_SHARED
#undef IMP_WGMMA_REGISTERS
// clang-format on

}  // namespace imp::cuda
