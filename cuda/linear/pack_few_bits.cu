// Q2_K and Q3_K to their layouts (linear/packed_weight.h; CodecQ3K has the order of the bits).
#include "linear/pack_blocks.cuh"
#include "linear/packed_weight.h"

namespace imp::cuda {
namespace {

struct PackQ2K {
  static __device__ void pack(const uint8_t* source, const PackTarget& to, const PackPlace& at) {
    const int g = at.group();
    const auto b = fetch_block<BlockQ2K>(source, at.index / 8);
    for (int j = 0; j < 8; ++j) {
      int byte = 0;
      for (int k = 0; k < 4; ++k) byte |= crumb(b.qs, g * 32 + k * 8 + j) << (2 * k);
      to.codes[at.index * 8 + j] = static_cast<uint8_t>(byte);
    }
    store_scales(to, at, b.scales[g * 2], b.scales[g * 2 + 1]);
    store_super(to, at, b.d, b.dmin);
  }
};

__device__ int q3k_scale(const uint8_t* scales, int index) {
  const int low = (scales[index % 8] >> (index / 8 * 4)) & 15;
  const int high = (scales[8 + index % 4] >> (index / 4 * 2)) & 3;
  return (low | (high << 4)) - 32;
}

struct PackQ3K {
  static __device__ void pack(const uint8_t* source, const PackTarget& to, const PackPlace& at) {
    const int g = at.group();
    const auto b = fetch_block<BlockQ3K>(source, at.index / 8);
    constexpr int places[4] = {2, 1, 6, 5};
    uint32_t fields[2] = {}, plane = 0;
    for (int i = 0; i < 32; ++i) {
      const int code = crumb(b.qs, g * 32 + i) | (((b.hmask[i] >> g) & 1) << 2);
      const int byte = i % 4, p = i / 4 % 2, k = i / 8;
      const int field = k % 2 ? code >> 1 : code & 3, third = k % 2 ? code & 1 : code >> 2;
      fields[p] |= static_cast<uint32_t>(field) << (byte * 8 + k * 2);
      plane |= static_cast<uint32_t>(third) << ((byte * 8 + places[k] + p * 2) % 32);
    }
    uint8_t* base = to.codes + strip_base(at.row, at.block, to.blocks_per_row, 12);
    reinterpret_cast<uint2*>(base)[at.block % 32] = make_uint2(fields[0], fields[1]);
    reinterpret_cast<uint32_t*>(base + strip_width(at.block, to.blocks_per_row) * 8)[at.block % 32] = plane;
    store_scales(to, at, q3k_scale(b.scales, g * 2), q3k_scale(b.scales, g * 2 + 1));
    store_super(to, at, b.d);
  }
};

}  // namespace

void pack_q2_k(const uint8_t* from, const PackTarget& to, int64_t total, const LaunchContext& context) {
  launch_pack<PackQ2K>(from, to, total, context);
}
void pack_q3_k(const uint8_t* from, const PackTarget& to, int64_t total, const LaunchContext& context) {
  launch_pack<PackQ3K>(from, to, total, context);
}

}  // namespace imp::cuda
