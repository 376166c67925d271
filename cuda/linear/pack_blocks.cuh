#pragma once
// What the kernels that repack weights (linear/pack_weight.h) share: a thread takes the 32 weights of a block, unpacks
// them to small integers, and stores them where the layout wants them.
#include <cuda_fp16.h>

#include "quant/blocks.h"
#include "runtime/launch.h"

namespace imp::cuda {

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

/// Which block of the target a thread packs.
struct PackPlace {
  int64_t index, row;
  int block;  // of the row

  __device__ int group() const { return block % 8; }  // of the 8 that are one block of a K format
};

/// The two bytes of scales of a block.
__device__ inline void store_scales(const PackTarget& to, const PackPlace& at, int first, int second) {
  to.scales[at.index * 2] = static_cast<uint8_t>(first);
  to.scales[at.index * 2 + 1] = static_cast<uint8_t>(second);
}
/// What 8 blocks share, by the first of them.
__device__ inline void store_super(const PackTarget& to, const PackPlace& at, uint16_t d) {
  if (at.group() == 0) reinterpret_cast<uint16_t*>(to.supers)[at.index / 8 * 2] = d;
}
__device__ inline void store_super(const PackTarget& to, const PackPlace& at, uint16_t d, uint16_t dmin) {
  if (at.group() != 0) return;
  reinterpret_cast<uint16_t*>(to.supers)[at.index / 8 * 2] = d;
  reinterpret_cast<uint16_t*>(to.supers)[at.index / 8 * 2 + 1] = dmin;
}

/// Packer::pack(source, to, place) for each of `total` blocks, which are whole rows.
template <class Packer>
__global__ void pack_kernel(const uint8_t* source, PackTarget to, int64_t total) {
  const int64_t index = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (index >= total) return;
  Packer::pack(source, to, {index, index / to.blocks_per_row, static_cast<int>(index % to.blocks_per_row)});
}

template <class Packer>
void launch_pack(const uint8_t* from, const PackTarget& to, int64_t total, const LaunchContext& context) {
  constexpr int kThreads = 128;
  launch(context, "pack_weight", pack_kernel<Packer>, static_cast<unsigned>((total + kThreads - 1) / kThreads),
         kThreads, 0, from, to, total);
}

// One a format; pack_weight.cu has the table.
using PackLaunch = void(const uint8_t* from, const PackTarget& to, int64_t total, const LaunchContext& context);
PackLaunch pack_q4_0, pack_q4_1, pack_iq4_nl, pack_iq4_xs, pack_mxfp4, pack_nvfp4;
PackLaunch pack_q5_k, pack_q5_0, pack_q5_1;
PackLaunch pack_q3_k, pack_q2_k;

}  // namespace imp::cuda
