// Q5_K, Q5_0 and Q5_1 to their layouts (linear/packed_weight.h; FiveBits has the order of the bits).
#include "linear/pack_blocks.cuh"
#include "linear/packed_weight.h"

namespace imp::cuda {
namespace {

struct PackedFiveBits {
  uint8_t nibbles[16];
  uint32_t plane;
};

/// Of codes 0 to 31.
__device__ PackedFiveBits pack_codes(const int8_t (&q)[32]) {
  PackedFiveBits packed = {};
  for (int j = 0; j < 16; ++j) {
    const int at = j % 4 * 8 + j / 4 * 2;
    packed.nibbles[j] = static_cast<uint8_t>((q[j] & 15) | (q[16 + j] >> 1 << 4));
    packed.plane |= static_cast<uint32_t>((q[16 + j] & 1) | (q[j] >> 4 << 1)) << at;
  }
  return packed;
}

__device__ void store_nibbles(uint8_t* to, const PackedFiveBits& packed) {
  for (int j = 0; j < 16; ++j) to[j] = packed.nibbles[j];
}

struct PackQ5K {
  static __device__ void pack(const uint8_t* source, const PackTarget& to, const PackPlace& at) {
    const auto b = fetch_block<BlockQ5K>(source, at.index / 8);
    PackGroup group;
    unpack_k_nibbles(b.qs, at.group(), group);
    for (int j = 0; j < 32; ++j) group.q[j] |= static_cast<int8_t>(((b.qh[j] >> at.group()) & 1) << 4);
    const PackedFiveBits packed = pack_codes(group.q);
    uint8_t* base = to.codes + strip_base(at.row, at.block, to.blocks_per_row, 20);
    store_nibbles(base + at.block % 32 * 16, packed);
    reinterpret_cast<uint32_t*>(base + strip_width(at.block, to.blocks_per_row) * 16)[at.block % 32] = packed.plane;
    const DeviceScaleMin sm = scale_min(b.scales, at.group());
    store_scales(to, at, sm.scale, sm.min);
    store_super(to, at, b.d, b.dmin);
  }
};

__device__ void store_scale(uint8_t* row, int block, const BlockQ5_0& b) {
  reinterpret_cast<uint16_t*>(row)[block] = b.d;
}
__device__ void store_scale(uint8_t* row, int block, const BlockQ5_1& b) {
  reinterpret_cast<uint16_t*>(row)[block * 2] = b.d;
  reinterpret_cast<uint16_t*>(row)[block * 2 + 1] = b.m;
}

template <class Block, int kScaleBytes>
struct PackQ5 {
  static __device__ void pack(const uint8_t* source, const PackTarget& to, const PackPlace& at) {
    const auto b = fetch_block<Block>(source, at.index);
    PackGroup group;
    unpack_nibbles(b.qs, group);
    add_fifth_bits(b.qh, group);
    const PackedFiveBits packed = pack_codes(group.q);
    store_nibbles(to.codes + at.index * 16, packed);
    uint8_t* plane = to.supers + at.row * padded_row_bytes(to.blocks_per_row, 4);
    reinterpret_cast<uint32_t*>(plane)[at.block] = packed.plane;
    store_scale(to.scales + at.row * padded_row_bytes(to.blocks_per_row, kScaleBytes), at.block, b);
  }
};

}  // namespace

void pack_q5_k(const uint8_t* from, const PackTarget& to, int64_t total, const LaunchContext& context) {
  launch_pack<PackQ5K>(from, to, total, context);
}
void pack_q5_0(const uint8_t* from, const PackTarget& to, int64_t total, const LaunchContext& context) {
  launch_pack<PackQ5<BlockQ5_0, 2>>(from, to, total, context);
}
void pack_q5_1(const uint8_t* from, const PackTarget& to, int64_t total, const LaunchContext& context) {
  launch_pack<PackQ5<BlockQ5_1, 4>>(from, to, total, context);
}

}  // namespace imp::cuda
