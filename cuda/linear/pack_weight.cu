#include <cuda_fp16.h>

#include "core/error.h"
#include "linear/pack_weight.h"
#include "quant/blocks.h"

namespace imp::cuda {
namespace {

__device__ float half_bits(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }

/// 32 weights as the layouts want them: small integers, and s * q - m for each 16.
struct Group {
  int8_t q[32];
  float s[2], m[2];
};

__device__ void set_scale(Group& group, float s, float m) {
  group.s[0] = group.s[1] = s;
  group.m[0] = group.m[1] = m;
}

__device__ void unpack_nibbles(const uint8_t* qs, Group& group) {
  for (int j = 0; j < 16; ++j) {
    group.q[j] = static_cast<int8_t>(qs[j] & 15);
    group.q[j + 16] = static_cast<int8_t>(qs[j] >> 4);
  }
}

__device__ void unpack(const BlockQ4_0& b, int, Group& group) {
  unpack_nibbles(b.qs, group);
  for (int8_t& q : group.q) q -= 8;
  set_scale(group, half_bits(b.d), 0);
}
__device__ void unpack(const BlockQ4_1& b, int, Group& group) {
  unpack_nibbles(b.qs, group);
  set_scale(group, half_bits(b.d), -half_bits(b.m));
}
__device__ void add_fifth_bits(const uint8_t* qh, Group& group) {
  for (int j = 0; j < 32; ++j) group.q[j] += static_cast<int8_t>(((qh[j / 8] >> (j % 8)) & 1) << 4);
}
__device__ void unpack(const BlockQ5_0& b, int, Group& group) {
  unpack_nibbles(b.qs, group);
  add_fifth_bits(b.qh, group);
  for (int8_t& q : group.q) q -= 16;
  set_scale(group, half_bits(b.d), 0);
}
__device__ void unpack(const BlockQ5_1& b, int, Group& group) {
  unpack_nibbles(b.qs, group);
  add_fifth_bits(b.qh, group);
  set_scale(group, half_bits(b.d), -half_bits(b.m));
}
__device__ void unpack(const BlockIQ4NL& b, int, Group& group) {
  unpack_nibbles(b.qs, group);
  constexpr int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
  for (int8_t& q : group.q) q = values[q];
  set_scale(group, half_bits(b.d), 0);
}
__device__ constexpr int8_t e2m1_doubled(int code) {
  constexpr int8_t values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
  return values[code];
}
__device__ void unpack(const BlockMXFP4& b, int, Group& group) {
  unpack_nibbles(b.qs, group);
  for (int8_t& q : group.q) q = e2m1_doubled(q);
  set_scale(group, ldexpf(1.0f, static_cast<int>(b.e) - 128), 0);
}
/// Unsigned E4M3: 4 bits of exponent with bias 7, 3 of mantissa; bit 7 is ignored, and 0x7f alone reads as 0.
__device__ float ue4m3(uint8_t code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  if (code == 0x7f) return 0;
  if (exponent == 0) return ldexpf(static_cast<float>(mantissa), -9);
  return ldexpf(1.0f + static_cast<float>(mantissa) / 8.0f, exponent - 7);
}
__device__ void unpack(const BlockNVFP4& b, int g, Group& group) {
  for (int half = 0; half < 2; ++half) {
    const uint8_t* qs = b.qs + (g * 2 + half) * 8;
    for (int j = 0; j < 8; ++j) {
      group.q[half * 16 + j] = e2m1_doubled(qs[j] & 15);
      group.q[half * 16 + j + 8] = e2m1_doubled(qs[j] >> 4);
    }
    group.s[half] = ue4m3(b.d[g * 2 + half]) * 0.5f;
    group.m[half] = 0;
  }
}
__device__ void unpack(const BlockQ8_0& b, int, Group& group) {
  for (int j = 0; j < 32; ++j) group.q[j] = b.qs[j];
  set_scale(group, half_bits(b.d), 0);
}
__device__ int crumb(const uint8_t* qs, int weight) {  // 2 bits of weight 0..255, as in BlockQ2K
  return (qs[weight / 128 * 32 + weight % 32] >> (weight % 128 / 32 * 2)) & 3;
}
__device__ void unpack(const BlockQ2K& b, int g, Group& group) {
  for (int j = 0; j < 32; ++j) group.q[j] = static_cast<int8_t>(crumb(b.qs, g * 32 + j));
  for (int half = 0; half < 2; ++half) {
    const uint8_t sm = b.scales[g * 2 + half];
    group.s[half] = half_bits(b.d) * static_cast<float>(sm & 15);
    group.m[half] = half_bits(b.dmin) * static_cast<float>(sm >> 4);
  }
}
__device__ void unpack(const BlockQ3K& b, int g, Group& group) {
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
__device__ DeviceScaleMin scale_min(const uint8_t* scales, int g) {
  if (g < 4) return {scales[g] & 63, scales[g + 4] & 63};
  return {(scales[g + 4] & 15) | ((scales[g - 4] >> 6) << 4), (scales[g + 4] >> 4) | ((scales[g] >> 6) << 4)};
}
__device__ void unpack_k_nibbles(const uint8_t* qs, int g, Group& group) {
  for (int j = 0; j < 32; ++j) group.q[j] = static_cast<int8_t>((qs[g / 2 * 32 + j] >> (g % 2 * 4)) & 15);
}
__device__ void unpack(const BlockQ5K& b, int g, Group& group) {
  unpack_k_nibbles(b.qs, g, group);
  for (int j = 0; j < 32; ++j) group.q[j] += static_cast<int8_t>(((b.qh[j] >> g) & 1) << 4);
  const DeviceScaleMin sm = scale_min(b.scales, g);
  set_scale(group, half_bits(b.d) * static_cast<float>(sm.scale), half_bits(b.dmin) * static_cast<float>(sm.min));
}
__device__ void unpack(const BlockQ6K& b, int g, Group& group) {
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
__device__ void unpack(const BlockIQ4XS& b, int g, Group& group) {
  BlockIQ4NL nl;
  for (int j = 0; j < 16; ++j) nl.qs[j] = b.qs[g * 16 + j];
  nl.d = b.d;
  unpack(nl, 0, group);
  const int low = (b.scales_l[g / 2] >> (g % 2 * 4)) & 15, high = (b.scales_h >> (2 * g)) & 3;
  set_scale(group, half_bits(b.d) * static_cast<float>((low | (high << 4)) - 32), 0);
}

/// A block of the file may start at any byte; copies it where its fields are aligned.
template <class Block>
__device__ Block fetch(const uint8_t* source, int64_t index) {
  Block block;
  auto* bytes = reinterpret_cast<uint8_t*>(&block);
  for (size_t i = 0; i < sizeof(Block); ++i) bytes[i] = source[index * static_cast<int64_t>(sizeof(Block)) + i];
  return block;
}

__device__ int64_t strip_base(int64_t row, int block, int blocks_per_row, int block_bytes) {
  return (row * blocks_per_row + block / 32 * 32) * block_bytes;
}
__device__ int strip_width(int block, int blocks_per_row) { return min(32, blocks_per_row - block / 32 * 32); }

struct Target {
  uint8_t *codes, *scales, *supers;
  int blocks_per_row;
};

__device__ void store_int8(const Target& to, int64_t row, int block, const Group& group) {
  const int width = strip_width(block, to.blocks_per_row);
  uint8_t* base = to.codes + strip_base(row, block, to.blocks_per_row, 32);
  for (int j = 0; j < 32; ++j) base[(j / 16 * width + block % 32) * 16 + j % 16] = static_cast<uint8_t>(group.q[j]);
}

template <class Block, int kBlockWeights>
__global__ void pack_groups_kernel(const uint8_t* source, Target to, int64_t total, int cols) {
  const int64_t index = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (index >= total) return;
  const int64_t row = index / to.blocks_per_row;
  const int block = static_cast<int>(index % to.blocks_per_row);
  constexpr int kPer = kBlockWeights / 32;
  Group group;
  unpack(fetch<Block>(source, row * (cols / kBlockWeights) + block / kPer), block % kPer, group);
  store_int8(to, row, block, group);
  reinterpret_cast<float4*>(to.scales)[index] = make_float4(group.s[0], group.m[0], group.s[1], group.m[1]);
}

__global__ void pack_q8_kernel(const uint8_t* source, Target to, int64_t total) {
  const int64_t index = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (index >= total) return;
  const auto b = fetch<BlockQ8_0>(source, index);
  Group group;
  unpack(b, 0, group);
  store_int8(to, index / to.blocks_per_row, static_cast<int>(index % to.blocks_per_row), group);
  reinterpret_cast<uint16_t*>(to.scales)[index] = b.d;
}

__global__ void pack_q4k_kernel(const uint8_t* source, Target to, int64_t total) {
  const int64_t index = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (index >= total) return;
  const int64_t row = index / to.blocks_per_row;
  const int block = static_cast<int>(index % to.blocks_per_row), g = block % 8;
  const auto b = fetch<BlockQ4K>(source, index / 8);
  Group group;
  unpack_k_nibbles(b.qs, g, group);
  uint8_t* base = to.codes + strip_base(row, block, to.blocks_per_row, 16) + block % 32 * 16;
  for (int j = 0; j < 16; ++j) base[j] = static_cast<uint8_t>(group.q[j] | (group.q[j + 16] << 4));
  const DeviceScaleMin sm = scale_min(b.scales, g);
  to.scales[index * 2] = static_cast<uint8_t>(sm.scale);
  to.scales[index * 2 + 1] = static_cast<uint8_t>(sm.min);
  if (g == 0) {
    reinterpret_cast<uint16_t*>(to.supers)[index / 8 * 2] = b.d;
    reinterpret_cast<uint16_t*>(to.supers)[index / 8 * 2 + 1] = b.dmin;
  }
}

__global__ void pack_q6k_kernel(const uint8_t* source, Target to, int64_t total) {
  const int64_t index = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (index >= total) return;
  const int64_t row = index / to.blocks_per_row;
  const int block = static_cast<int>(index % to.blocks_per_row), g = block % 8;
  const auto b = fetch<BlockQ6K>(source, index / 8);
  Group group;
  unpack(b, g, group);
  uint8_t* base = to.codes + strip_base(row, block, to.blocks_per_row, 24);
  uint8_t* nibbles = base + block % 32 * 16;
  uint8_t* pairs = base + strip_width(block, to.blocks_per_row) * 16 + block % 32 * 8;
  for (int j = 0; j < 16; ++j)
    nibbles[j] = static_cast<uint8_t>(((group.q[j] + 32) & 15) | (((group.q[j + 16] + 32) & 15) << 4));
  for (int j = 0; j < 8; ++j) {
    int byte = 0;
    for (int i = 0; i < 4; ++i) byte |= ((group.q[j + i * 8] + 32) >> 4) << (2 * i);
    pairs[j] = static_cast<uint8_t>(byte);
  }
  to.scales[index * 2] = static_cast<uint8_t>(b.scales[g * 2]);
  to.scales[index * 2 + 1] = static_cast<uint8_t>(b.scales[g * 2 + 1]);
  if (g == 0) reinterpret_cast<uint16_t*>(to.supers)[index / 8 * 2] = b.d;
}

constexpr int kThreads = 128;

int grid_of(int64_t total) { return static_cast<int>((total + kThreads - 1) / kThreads); }

template <class Block, int kBlockWeights>
void pack_groups(const uint8_t* source, Target to, int64_t total, int64_t cols, const LaunchContext& context) {
  launch(context, "pack_groups", pack_groups_kernel<Block, kBlockWeights>, grid_of(total), kThreads, 0, source, to,
         total, static_cast<int>(cols));
}

}  // namespace

void pack_weight(WeightFormat format, const void* source, int64_t first_row, int64_t rows, int64_t total_rows,
                 int64_t cols, void* packed, const LaunchContext& with) {
  LaunchContext context = with;
  context.pdl = false;  // runs between plain copies
  context.launches = nullptr;
  if (rows == 0 || cols == 0) return;
  const PackedLayout layout = packed_layout_of(format);
  const PackedSizes all = packed_sizes(layout, format, total_rows, cols);
  const PackedSizes before = packed_sizes(layout, format, first_row, cols);
  auto* codes = static_cast<uint8_t*>(packed) + before.codes_bytes;
  if (layout == PackedLayout::kRows) {
    const auto bytes = static_cast<size_t>(packed_sizes(layout, format, rows, cols).codes_bytes);
    check(cudaMemcpyAsync(codes, source, bytes, cudaMemcpyDeviceToDevice, context.stream), "copying a weight");
    return;
  }
  uint8_t* scales = static_cast<uint8_t*>(packed) + PackedSizes::align(all.codes_bytes);
  uint8_t* supers = scales + PackedSizes::align(all.scales_bytes);
  const Target to{codes, scales + before.scales_bytes, supers + before.supers_bytes, static_cast<int>(cols / 32)};
  const auto* from = static_cast<const uint8_t*>(source);
  const int64_t total = rows * (cols / 32);
  switch (format) {
    case WeightFormat::q8_0:
      return launch(context, "pack_q8", pack_q8_kernel, grid_of(total), kThreads, 0, from, to, total);
    case WeightFormat::q4_k:
      return launch(context, "pack_q4k", pack_q4k_kernel, grid_of(total), kThreads, 0, from, to, total);
    case WeightFormat::q6_k:
      return launch(context, "pack_q6k", pack_q6k_kernel, grid_of(total), kThreads, 0, from, to, total);
    case WeightFormat::q4_0: return pack_groups<BlockQ4_0, 32>(from, to, total, cols, context);
    case WeightFormat::q4_1: return pack_groups<BlockQ4_1, 32>(from, to, total, cols, context);
    case WeightFormat::q5_0: return pack_groups<BlockQ5_0, 32>(from, to, total, cols, context);
    case WeightFormat::q5_1: return pack_groups<BlockQ5_1, 32>(from, to, total, cols, context);
    case WeightFormat::iq4_nl: return pack_groups<BlockIQ4NL, 32>(from, to, total, cols, context);
    case WeightFormat::mxfp4: return pack_groups<BlockMXFP4, 32>(from, to, total, cols, context);
    case WeightFormat::nvfp4: return pack_groups<BlockNVFP4, 64>(from, to, total, cols, context);
    case WeightFormat::q2_k: return pack_groups<BlockQ2K, 256>(from, to, total, cols, context);
    case WeightFormat::q3_k: return pack_groups<BlockQ3K, 256>(from, to, total, cols, context);
    case WeightFormat::q5_k: return pack_groups<BlockQ5K, 256>(from, to, total, cols, context);
    case WeightFormat::iq4_xs: return pack_groups<BlockIQ4XS, 256>(from, to, total, cols, context);
    default: fail(ErrorCode::internal, "no packing of ", info(format).name);
  }
}

}  // namespace imp::cuda
