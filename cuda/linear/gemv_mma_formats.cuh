#pragma once
// What gemv_mma needs to know of a packed layout: how 16 rows of a unit of k (kBlocks blocks of 32 weights) lie in a
// stage of a warp's ring, which copies bring them there, and how a lane gets its fragments and scales back. A row's
// kRow bytes are an odd multiple of 16, so that 8 rows of 16 bytes meet no bank twice.
//
// copy(): 8 rows from `row` on, of which `valid` exist (the others become zeros), blocks from `first` on.
// load_codes(): both blocks of pair `pair` as operands of mma.m16n8k32, rows l/4 and l/4 + 8.
// Scales: of one row and 8 blocks; get(i) those of block i.
#include "device/cp_async.cuh"
#include "linear/imma_formats.cuh"

namespace imp::cuda {

/// Where blocks from `first` on of a row are in its packed memory, counted in blocks through the whole weight.
struct UnitPlace {
  uint32_t strip;  // first block of the strip
  int in_strip, width;
  __device__ __forceinline__ UnitPlace(const PackedView& w, int row, int first) {
    const int blocks = w.cols / 32;
    strip = static_cast<uint32_t>(row) * blocks + first / 32 * 32;
    in_strip = first % 32;
    width = min(32, blocks - first / 32 * 32);
  }
  __device__ __forceinline__ uint32_t block() const { return strip + in_strip; }
  __device__ __forceinline__ int left() const { return width - in_strip; }  // blocks of the strip from here on
};

/// The 4 bytes that 8 blocks share, `count` (1 or 2) of them, to where the 16 bytes of a whole strip would have them.
template <int kRow>
__device__ __forceinline__ void copy_supers(uint8_t* to, const PackedView& w, int row, int valid, int first, int lane) {
  const int r = lane % 8;
  const UnitPlace place(w, row + (r < valid ? r : 0), first);
  if (w.cols % 1024 == 0) {
    if (lane < 8) cp_async_16(to + r * kRow, w.supers + uint64_t{place.strip / 8} * 4, r < valid);
  } else if (lane < 16 && r < valid && lane / 8 * 8 < place.left()) {
    const int entry = place.in_strip / 8 + lane / 8;
    cp_async_4(to + r * kRow + entry * 4, w.supers + uint64_t{place.strip / 8 + entry} * 4);
  }
}

struct MmaQ8 {
  static constexpr bool kPerSixteen = false, kMin = false;
  static constexpr int kPlanes = 1;  // of floats beside the tokens' codes
  static constexpr int kBlocks = 8, kRow = 272, kScalesAt = 256;

  __device__ __forceinline__ static void copy(uint8_t* to, const PackedView& w, int row, int valid, int first,
                                              int lane) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = lane / 8 + i * 4, piece = lane % 8;
      const bool there = r < valid;
      const UnitPlace place(w, row + (there ? r : 0), first);
      const uint8_t* codes = w.codes + uint64_t{place.strip} * 32 + (place.in_strip + piece) * 16;
      cp_async_16(to + r * kRow + piece * 16, codes, there);
      cp_async_16(to + r * kRow + 128 + piece * 16, codes + place.width * 16, there);
    }
    if (lane < 8) {
      const UnitPlace place(w, row + (lane < valid ? lane : 0), first);
      cp_async_16(to + lane * kRow + kScalesAt, w.scales + uint64_t{place.block()} * 2, lane < valid);
    }
  }
  __device__ __forceinline__ static void load_codes(uint32_t (&a)[2][4], uint32_t stage, int pair, int lane) {
    const uint32_t at = stage + lane % 16 * kRow + lane / 16 * 128 + pair * 32;
    load_rows_x4(a[0], at);
    load_rows_x4(a[1], at + 16);
  }
  struct Scales {
    uint4 d;
    __device__ __forceinline__ void load(const uint8_t* row, int eight, int) {
      d = *reinterpret_cast<const uint4*>(row + kScalesAt + eight * 16);
    }
    __device__ __forceinline__ RowScale get(int i) const {
      const uint32_t words[4] = {d.x, d.y, d.z, d.w};
      const __half2 pair = *reinterpret_cast<const __half2*>(&words[i / 2]);
      return {i % 2 ? __high2float(pair) : __low2float(pair), 0, 0, 0};
    }
  };
};

struct MmaQ4K {
  static constexpr bool kPerSixteen = false, kMin = true;
  static constexpr int kPlanes = 2;
  static constexpr int kBlocks = 16, kRow = 304, kScalesAt = 256, kSupersAt = 288;

  __device__ __forceinline__ static void copy(uint8_t* to, const PackedView& w, int row, int valid, int first,
                                              int lane) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = lane / 16 + i * 2, piece = lane % 16;
      const UnitPlace place(w, row + (r < valid ? r : 0), first);
      const bool there = r < valid && piece < place.left();
      cp_async_16(to + r * kRow + piece * 16, w.codes + uint64_t{place.block()} * 16 + (there ? piece : 0) * 16, there);
    }
    if (lane < 16) {
      const int r = lane % 8, piece = lane / 8;
      const UnitPlace place(w, row + (r < valid ? r : 0), first);
      const bool there = r < valid && piece * 8 < place.left();
      cp_async_16(to + r * kRow + kScalesAt + piece * 16,
                  w.scales + uint64_t{place.block()} * 2 + (there ? piece : 0) * 16, there);
    }
    copy_supers<kRow>(to + kSupersAt, w, row, valid, first, lane);
  }
  __device__ __forceinline__ static void load_codes(uint32_t (&a)[2][4], uint32_t stage, int pair, int lane) {
    uint32_t r[4];
    load_rows_x4(r, stage + lane % 16 * kRow + (pair * 2 + lane / 16) * 16);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      a[i][0] = r[i * 2] & 0x0f0f0f0fu, a[i][1] = r[i * 2 + 1] & 0x0f0f0f0fu;
      a[i][2] = (r[i * 2] >> 4) & 0x0f0f0f0fu, a[i][3] = (r[i * 2 + 1] >> 4) & 0x0f0f0f0fu;
    }
  }
  struct Scales {
    uint4 pairs;
    RowSuper super;
    __device__ __forceinline__ void load(const uint8_t* row, int eight, int first) {
      pairs = *reinterpret_cast<const uint4*>(row + kScalesAt + eight * 16);
      super = FormatQ4K<8>::super(row + kSupersAt + (first / 8 % 4 + eight) * 4);
    }
    __device__ __forceinline__ RowScale get(int i) const {
      const uint32_t words[4] = {pairs.x, pairs.y, pairs.z, pairs.w};
      const uint32_t word = words[i / 2];
      const float s = i % 2 ? biased_byte<2>(word) : biased_byte<0>(word);
      const float m = i % 2 ? biased_byte<3>(word) : biased_byte<1>(word);
      return {fmaf(super.s, s, super.s_offset), fmaf(super.m, m, super.m_offset), 0, 0};
    }
  };
};

struct MmaQ6K {
  static constexpr bool kPerSixteen = true, kMin = false;
  static constexpr int kPlanes = 1;
  static constexpr int kBlocks = 8, kRow = 240, kPairsAt = 128, kScalesAt = 192, kSupersAt = 208;

  __device__ __forceinline__ static void copy(uint8_t* to, const PackedView& w, int row, int valid, int first,
                                              int lane) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = lane / 8 + i * 4, piece = lane % 8;
      const UnitPlace place(w, row + (r < valid ? r : 0), first);
      cp_async_16(to + r * kRow + piece * 16, w.codes + uint64_t{place.strip} * 24 + (place.in_strip + piece) * 16,
                  r < valid);
    }
    const int r = lane / 4, piece = lane % 4;
    const UnitPlace place(w, row + (r < valid ? r : 0), first);
    cp_async_16(to + r * kRow + kPairsAt + piece * 16,
                w.codes + uint64_t{place.strip} * 24 + place.width * 16 + place.in_strip * 8 + piece * 16, r < valid);
    if (piece == 0) cp_async_16(to + r * kRow + kScalesAt, w.scales + uint64_t{place.block()} * 2, r < valid);
    copy_supers<kRow>(to + kSupersAt, w, row, valid, first, lane);
  }
  /// Codes are multiplied as 4 * (q - 32), as in FormatQ6K.
  __device__ __forceinline__ static void load_codes(uint32_t (&a)[2][4], uint32_t stage, int pair, int lane) {
    uint32_t nibbles[4];
    load_rows_x4(nibbles, stage + lane % 16 * kRow + (pair * 2 + lane / 16) * 16);
    const uint32_t pairs = stage + lane / 4 * kRow + kPairsAt + lane % 2 * 4 + pair * 16;
    const int shift = lane % 4 / 2 * 2;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t high;
        asm volatile("ld.shared.u32 %0, [%1];" : "=r"(high) : "r"(pairs + i * 8 + half * 8 * kRow));
        high >>= shift;
        const uint32_t low = nibbles[i * 2 + half];
        a[i][half] = (((low << 2) & 0x3c3c3c3cu) | ((high << 6) & 0xc0c0c0c0u)) ^ 0x80808080u;
        a[i][half + 2] = (((low >> 2) & 0x3c3c3c3cu) | ((high << 2) & 0xc0c0c0c0u)) ^ 0x80808080u;
      }
    }
  }
  struct Scales {
    uint4 pairs;
    float super;
    __device__ __forceinline__ void load(const uint8_t* row, int eight, int first) {
      pairs = *reinterpret_cast<const uint4*>(row + kScalesAt + eight * 16);
      pairs.x ^= 0x80808080u, pairs.y ^= 0x80808080u, pairs.z ^= 0x80808080u, pairs.w ^= 0x80808080u;
      super = FormatQ6K<8>::super(row + kSupersAt + (first / 8 % 4 + eight) * 4).s;
    }
    __device__ __forceinline__ RowScale get(int i) const {
      const uint32_t words[4] = {pairs.x, pairs.y, pairs.z, pairs.w};
      const uint32_t word = words[i / 2];
      constexpr float kBias = 0x1p23f + 128;
      const float low = i % 2 ? biased_byte<2>(word) : biased_byte<0>(word);
      const float high = i % 2 ? biased_byte<3>(word) : biased_byte<1>(word);
      return {super * (low - kBias), 0, super * (high - kBias), 0};
    }
  };
};

}  // namespace imp::cuda
