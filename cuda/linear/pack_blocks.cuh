#pragma once
// What the kernels that repack weights (linear/pack_weight.h) share: a thread takes the 32 weights of a block, unpacks
// them to small integers, and stores them where the layout wants them.
#include <cuda_fp16.h>

#include "quant/blocks.h"
#include "runtime/launch.h"

namespace imp::cuda {

__device__ inline float half_bits(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }

/// The small integers of 32 weights.
struct PackGroup {
  int8_t q[32];
};

__device__ inline void unpack_nibbles(const uint8_t* qs, PackGroup& group) {
  for (int j = 0; j < 16; ++j) {
    group.q[j] = static_cast<int8_t>(qs[j] & 15);
    group.q[j + 16] = static_cast<int8_t>(qs[j] >> 4);
  }
}

__device__ inline void add_fifth_bits(const uint8_t* qh, PackGroup& group) {
  for (int j = 0; j < 32; ++j) group.q[j] += static_cast<int8_t>(((qh[j / 8] >> (j % 8)) & 1) << 4);
}
__device__ inline int crumb(const uint8_t* qs, int weight) {  // 2 bits of weight 0..255, as in BlockQ2K
  return (qs[weight / 128 * 32 + weight % 32] >> (weight % 128 / 32 * 2)) & 3;
}
/// Of group g of Q4_K and Q5_K.
struct DeviceScaleMin {
  int scale, min;
};
__device__ inline DeviceScaleMin scale_min(const uint8_t* scales, int g) {
  if (g < 4) return {scales[g] & 63, scales[g + 4] & 63};
  return {(scales[g + 4] & 15) | ((scales[g - 4] >> 6) << 4), (scales[g + 4] >> 4) | ((scales[g] >> 6) << 4)};
}
__device__ inline void unpack_k_nibbles(const uint8_t* qs, int g, PackGroup& group) {
  for (int j = 0; j < 32; ++j) group.q[j] = static_cast<int8_t>((qs[g / 2 * 32 + j] >> (g % 2 * 4)) & 15);
}

/// A block of the file may start at any byte; copies it where its fields are aligned.
template <class Block>
__device__ Block fetch_block(const uint8_t* source, int64_t index) {
  Block block;
  auto* bytes = reinterpret_cast<uint8_t*>(&block);
  for (size_t i = 0; i < sizeof(Block); ++i) bytes[i] = source[index * static_cast<int64_t>(sizeof(Block)) + i];
  return block;
}

__device__ inline int64_t strip_base(int64_t row, int block, int blocks_per_row, int block_bytes) {
  return (row * blocks_per_row + block / 32 * 32) * block_bytes;
}
__device__ inline int strip_width(int block, int blocks_per_row) { return min(32, blocks_per_row - block / 32 * 32); }

struct PackTarget {
  uint8_t *codes, *scales, *supers;
  int blocks_per_row;
};

inline constexpr int kPackThreads = 128;

inline int pack_grid(int64_t total) { return static_cast<int>((total + kPackThreads - 1) / kPackThreads); }

}  // namespace imp::cuda
