#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

#include "model/weights.h"

namespace imp::cuda {

/// How the CUDA backend holds a weight (WeightView::layout). Every layout keeps the file's numbers exactly: codes,
/// scales and minimums are rearranged, never rounded. Rows are cut into blocks of 32 weights, and a row's blocks into
/// strips of 32 blocks, one block a lane: chunk c (16 bytes of codes) of the 32 blocks of a strip is contiguous, so
/// that a warp's 128-bit loads are. The last strip of a row is as wide as what is left.
///
///  layout  codes a block              scales a block        supers a row, per 8 blocks  value
///  kRows   (fp32, f16 or bf16 rows in the file's order; no blocks)
///  kQ8     int8 x 32 (2 chunks)       f16 d                 -                           d * q
///  kQ4K    4 bits x 32 (1 chunk)      u8 scale, u8 min      f16 d, f16 dmin             d * scale * q - dmin * min
///  kQ6K    4 bits x 32, then          i8 scale x 2          f16 d, unused               d * scale * (q - 32)
///          2 bits x 32 (8 bytes)      (per 16)
///  kQ4_0   4 bits x 32 (1 chunk)      f16 d                 -                           d * (q - 8)
///  kQ4_1   as kQ4_0                   f16 d, f16 m          -                           d * q + m
///  kIQ4NL  as kQ4_0                   f16 d                 -                           d * table[q]
///  kIQ4XS  as kQ4_0                   i8 scale              f16 d, unused               d * scale * table[q]
///  kMXFP4  as kQ4_0                   u8 e                  -                           2^(e - 128) * table[q]
///  kNVFP4  as kQ4_0                   ue4m3 d x 2 (per 16)  -                           d / 2 * table[q]
///  kQ5K    FiveBits: nibbles, then    as kQ4K               as kQ4K                     as kQ4K
///          4 bytes of the plane
///  kQ5_0   FiveBits' nibbles          f16 d                 the plane: 4 bytes a block  d * (q - 16)
///          (1 chunk)
///  kQ5_1   as kQ5_0                   f16 d, f16 m          as kQ5_0                    d * q + m
///  kQ3K    CodecQ3K: fields           i8 scale x 2          f16 d, unused               d * scale * (q - 4)
///          (8 bytes), then the plane  (per 16)
///          (4 bytes)
///  kQ2K    2 bits x 32 (8 bytes)      scale + 16 * min      f16 d, f16 dmin             d * scale * q - dmin * min
///                                     x 2 (per 16)
///
/// In a 16-byte chunk of 4-bit codes byte j holds weight j (low) and j + 16 (high). In the 8 bytes of 2-bit codes byte
/// j holds weights j, j + 8, j + 16, j + 24, lowest bits first. From kQ4_0 to kNVFP4, see device/nibble_formats.cuh;
/// FiveBits is in device/codec_five_bits.cuh, CodecQ3K in device/codec_few_bits.cuh. Of codes in two parts a strip has
/// the first parts of its blocks, then the second ones. From kQ4_0 to kNVFP4 and in kQ5_0 and kQ5_1 a row's scales, and
/// its planes, begin on 16 bytes.
enum class PackedLayout : int {
  kRows,
  kQ8,
  kQ4K,
  kQ6K,
  kQ4_0,
  kQ4_1,
  kIQ4NL,
  kIQ4XS,
  kMXFP4,
  kNVFP4,
  kQ5K,
  kQ5_0,
  kQ5_1,
  kQ3K,
  kQ2K,
};

inline constexpr int kStripBlocks = 32;

/// What a row of `each` bytes a block takes where rows begin on 16 bytes.
__host__ __device__ inline int64_t padded_row_bytes(int64_t blocks_per_row, int each) {
  return (blocks_per_row * each + 15) / 16 * 16;
}

struct PackedSizes {
  int64_t codes_bytes;
  int64_t scales_bytes;
  int64_t supers_bytes;
  int64_t total() const { return align(codes_bytes) + align(scales_bytes) + align(supers_bytes); }
  static int64_t align(int64_t bytes) { return (bytes + 255) / 256 * 256; }
};

PackedLayout packed_layout_of(WeightFormat format);
PackedSizes packed_sizes(PackedLayout layout, WeightFormat format, int64_t rows, int64_t cols);

/// Device pointers of a packed weight.
struct PackedView {
  const uint8_t* codes;
  const uint8_t* scales;
  const uint8_t* supers;
  int rows;
  int cols;
};
PackedView packed_view(const WeightView& weight);

}  // namespace imp::cuda
