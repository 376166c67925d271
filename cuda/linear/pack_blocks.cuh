#pragma once
// What the kernels that repack weights (linear/pack_weight.h) share: a thread takes the 32 weights of a block, unpacks
// them to small integers, and stores them where the layout wants them.
#include <cuda_fp16.h>

#include "quant/blocks.h"
#include "runtime/launch.h"

namespace imp::cuda {

__device__ inline float half_bits(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }

/// 32 weights as the layouts want them: small integers, and s * q - m for each 16.
struct PackGroup {
  int8_t q[32];
  float s[2], m[2];
};

__device__ inline void set_scale(PackGroup& group, float s, float m) {
  group.s[0] = group.s[1] = s;
  group.m[0] = group.m[1] = m;
}

__device__ inline void unpack_nibbles(const uint8_t* qs, PackGroup& group) {
  for (int j = 0; j < 16; ++j) {
    group.q[j] = static_cast<int8_t>(qs[j] & 15);
    group.q[j + 16] = static_cast<int8_t>(qs[j] >> 4);
  }
}

__device__ inline void add_fifth_bits(const uint8_t* qh, PackGroup& group) {
  for (int j = 0; j < 32; ++j) group.q[j] += static_cast<int8_t>(((qh[j / 8] >> (j % 8)) & 1) << 4);
}
__device__ inline void unpack(const BlockQ5_0& b, int, PackGroup& group) {
  unpack_nibbles(b.qs, group);
  add_fifth_bits(b.qh, group);
  for (int8_t& q : group.q) q -= 16;
  set_scale(group, half_bits(b.d), 0);
}
__device__ inline void unpack(const BlockQ5_1& b, int, PackGroup& group) {
  unpack_nibbles(b.qs, group);
  add_fifth_bits(b.qh, group);
  set_scale(group, half_bits(b.d), -half_bits(b.m));
}
__device__ inline void unpack(const BlockQ8_0& b, int, PackGroup& group) {
  for (int j = 0; j < 32; ++j) group.q[j] = b.qs[j];
  set_scale(group, half_bits(b.d), 0);
}
__device__ inline int crumb(const uint8_t* qs, int weight) {  // 2 bits of weight 0..255, as in BlockQ2K
  return (qs[weight / 128 * 32 + weight % 32] >> (weight % 128 / 32 * 2)) & 3;
}
__device__ inline void unpack(const BlockQ2K& b, int g, PackGroup& group) {
  for (int j = 0; j < 32; ++j) group.q[j] = static_cast<int8_t>(crumb(b.qs, g * 32 + j));
  for (int half = 0; half < 2; ++half) {
    const uint8_t sm = b.scales[g * 2 + half];
    group.s[half] = half_bits(b.d) * static_cast<float>(sm & 15);
    group.m[half] = half_bits(b.dmin) * static_cast<float>(sm >> 4);
  }
}
__device__ inline void unpack(const BlockQ3K& b, int g, PackGroup& group) {
  for (int j = 0; j < 32; ++j) {
    const int i = g * 32 + j;
    group.q[j] = static_cast<int8_t>(crumb(b.qs, i) - (((b.hmask[i % 32] >> (i / 32)) & 1) ? 0 : 4));
  }
  for (int half = 0; half < 2; ++half) {
    const int index = g * 2 + half;
    const int low = (b.scales[index % 8] >> (index / 8 * 4)) & 15;
    const int high = (b.scales[8 + index % 4] >> (index / 4 * 2)) & 3;
    group.s[half] = half_bits(b.d) * static_cast<float>((low | (high << 4)) - 32);
    group.m[half] = 0;
  }
}
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
__device__ inline void unpack(const BlockQ5K& b, int g, PackGroup& group) {
  unpack_k_nibbles(b.qs, g, group);
  for (int j = 0; j < 32; ++j) group.q[j] += static_cast<int8_t>(((b.qh[j] >> g) & 1) << 4);
  const DeviceScaleMin sm = scale_min(b.scales, g);
  set_scale(group, half_bits(b.d) * static_cast<float>(sm.scale), half_bits(b.dmin) * static_cast<float>(sm.min));
}
__device__ inline void unpack(const BlockQ6K& b, int g, PackGroup& group) {
  for (int j = 0; j < 32; ++j) {
    const int i = g * 32 + j;
    const int low = (b.ql[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4)) & 15;
    group.q[j] = static_cast<int8_t>((low | (crumb(b.qh, i) << 4)) - 32);
  }
  for (int half = 0; half < 2; ++half) {
    group.s[half] = half_bits(b.d) * static_cast<float>(b.scales[g * 2 + half]);
    group.m[half] = 0;
  }
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

__device__ inline void store_int8(const PackTarget& to, int64_t row, int block, const PackGroup& group) {
  const int width = strip_width(block, to.blocks_per_row);
  uint8_t* base = to.codes + strip_base(row, block, to.blocks_per_row, 32);
  for (int j = 0; j < 32; ++j) base[(j / 16 * width + block % 32) * 16 + j % 16] = static_cast<uint8_t>(group.q[j]);
}

inline constexpr int kPackThreads = 128;

inline int pack_grid(int64_t total) { return static_cast<int>((total + kPackThreads - 1) / kPackThreads); }

}  // namespace imp::cuda
