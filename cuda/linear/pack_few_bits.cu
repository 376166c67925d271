// Q2_K and Q3_K to their layouts (linear/packed_weight.h; CodecQ3K has the order of the bits).
#include "linear/pack_blocks.cuh"
#include "linear/packed_weight.h"

namespace imp::cuda {
namespace {

__global__ void pack_q2k_kernel(const uint8_t* source, PackTarget to, int64_t total) {
  const int64_t index = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (index >= total) return;
  const int g = static_cast<int>(index % 8);
  const auto b = fetch_block<BlockQ2K>(source, index / 8);
  for (int j = 0; j < 8; ++j) {
    int byte = 0;
    for (int k = 0; k < 4; ++k) byte |= crumb(b.qs, g * 32 + k * 8 + j) << (2 * k);
    to.codes[index * 8 + j] = static_cast<uint8_t>(byte);
  }
  to.scales[index * 2] = b.scales[g * 2];
  to.scales[index * 2 + 1] = b.scales[g * 2 + 1];
  if (g == 0) {
    reinterpret_cast<uint16_t*>(to.supers)[index / 8 * 2] = b.d;
    reinterpret_cast<uint16_t*>(to.supers)[index / 8 * 2 + 1] = b.dmin;
  }
}

__device__ int q3k_scale(const uint8_t* scales, int index) {
  const int low = (scales[index % 8] >> (index / 8 * 4)) & 15;
  const int high = (scales[8 + index % 4] >> (index / 4 * 2)) & 3;
  return (low | (high << 4)) - 32;
}

__global__ void pack_q3k_kernel(const uint8_t* source, PackTarget to, int64_t total) {
  const int64_t index = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (index >= total) return;
  const int64_t row = index / to.blocks_per_row;
  const int block = static_cast<int>(index % to.blocks_per_row), g = block % 8;
  const auto b = fetch_block<BlockQ3K>(source, index / 8);
  constexpr int places[4] = {2, 1, 6, 5};
  uint32_t fields[2] = {}, plane = 0;
  for (int i = 0; i < 32; ++i) {
    const int code = crumb(b.qs, g * 32 + i) | (((b.hmask[i] >> g) & 1) << 2);
    const int byte = i % 4, p = i / 4 % 2, k = i / 8;
    const int field = k % 2 ? code >> 1 : code & 3, third = k % 2 ? code & 1 : code >> 2;
    fields[p] |= static_cast<uint32_t>(field) << (byte * 8 + k * 2);
    plane |= static_cast<uint32_t>(third) << ((byte * 8 + places[k] + p * 2) % 32);
  }
  uint8_t* base = to.codes + strip_base(row, block, to.blocks_per_row, 12);
  reinterpret_cast<uint2*>(base)[block % 32] = make_uint2(fields[0], fields[1]);
  reinterpret_cast<uint32_t*>(base + strip_width(block, to.blocks_per_row) * 8)[block % 32] = plane;
  to.scales[index * 2] = static_cast<uint8_t>(q3k_scale(b.scales, g * 2));
  to.scales[index * 2 + 1] = static_cast<uint8_t>(q3k_scale(b.scales, g * 2 + 1));
  if (g == 0) reinterpret_cast<uint16_t*>(to.supers)[index / 8 * 2] = b.d;
}

}  // namespace

void pack_q2k(const uint8_t* from, const PackTarget& to, int64_t total, const LaunchContext& context) {
  launch(context, "pack_q2k", pack_q2k_kernel, pack_grid(total), kPackThreads, 0, from, to, total);
}
void pack_q3k(const uint8_t* from, const PackTarget& to, int64_t total, const LaunchContext& context) {
  launch(context, "pack_q3k", pack_q3k_kernel, pack_grid(total), kPackThreads, 0, from, to, total);
}

}  // namespace imp::cuda
