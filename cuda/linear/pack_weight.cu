#include "core/error.h"
#include "linear/pack_blocks.cuh"
#include "linear/pack_weight.h"

namespace imp::cuda {

// In files of their own.
void pack_nibbles(WeightFormat format, const uint8_t* from, const PackTarget& to, int64_t total,
                  const LaunchContext& context);

namespace {

template <class Block, int kBlockWeights>
__global__ void pack_groups_kernel(const uint8_t* source, PackTarget to, int64_t total, int cols) {
  const int64_t index = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (index >= total) return;
  const int64_t row = index / to.blocks_per_row;
  const int block = static_cast<int>(index % to.blocks_per_row);
  constexpr int kPer = kBlockWeights / 32;
  PackGroup group;
  unpack(fetch_block<Block>(source, row * (cols / kBlockWeights) + block / kPer), block % kPer, group);
  store_int8(to, row, block, group);
  reinterpret_cast<float4*>(to.scales)[index] = make_float4(group.s[0], group.m[0], group.s[1], group.m[1]);
}

__global__ void pack_q8_kernel(const uint8_t* source, PackTarget to, int64_t total) {
  const int64_t index = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (index >= total) return;
  const auto b = fetch_block<BlockQ8_0>(source, index);
  PackGroup group;
  unpack(b, 0, group);
  store_int8(to, index / to.blocks_per_row, static_cast<int>(index % to.blocks_per_row), group);
  reinterpret_cast<uint16_t*>(to.scales)[index] = b.d;
}

__global__ void pack_q4k_kernel(const uint8_t* source, PackTarget to, int64_t total) {
  const int64_t index = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (index >= total) return;
  const int64_t row = index / to.blocks_per_row;
  const int block = static_cast<int>(index % to.blocks_per_row), g = block % 8;
  const auto b = fetch_block<BlockQ4K>(source, index / 8);
  PackGroup group;
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

__global__ void pack_q6k_kernel(const uint8_t* source, PackTarget to, int64_t total) {
  const int64_t index = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (index >= total) return;
  const int64_t row = index / to.blocks_per_row;
  const int block = static_cast<int>(index % to.blocks_per_row), g = block % 8;
  const auto b = fetch_block<BlockQ6K>(source, index / 8);
  PackGroup group;
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

template <class Block, int kBlockWeights>
void pack_groups(const uint8_t* source, PackTarget to, int64_t total, int64_t cols, const LaunchContext& context) {
  launch(context, "pack_groups", pack_groups_kernel<Block, kBlockWeights>, pack_grid(total), kPackThreads, 0, source,
         to, total, static_cast<int>(cols));
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
  const PackTarget to{codes, scales + before.scales_bytes, supers + before.supers_bytes, static_cast<int>(cols / 32)};
  const auto* from = static_cast<const uint8_t*>(source);
  const int64_t total = rows * (cols / 32);
  switch (format) {
    case WeightFormat::q8_0:
      return launch(context, "pack_q8", pack_q8_kernel, pack_grid(total), kPackThreads, 0, from, to, total);
    case WeightFormat::q4_k:
      return launch(context, "pack_q4k", pack_q4k_kernel, pack_grid(total), kPackThreads, 0, from, to, total);
    case WeightFormat::q6_k:
      return launch(context, "pack_q6k", pack_q6k_kernel, pack_grid(total), kPackThreads, 0, from, to, total);
    case WeightFormat::q4_0: return pack_nibbles(format, from, to, total, context);
    case WeightFormat::q4_1: return pack_nibbles(format, from, to, total, context);
    case WeightFormat::q5_0: return pack_groups<BlockQ5_0, 32>(from, to, total, cols, context);
    case WeightFormat::q5_1: return pack_groups<BlockQ5_1, 32>(from, to, total, cols, context);
    case WeightFormat::iq4_nl: return pack_nibbles(format, from, to, total, context);
    case WeightFormat::mxfp4: return pack_nibbles(format, from, to, total, context);
    case WeightFormat::nvfp4: return pack_nibbles(format, from, to, total, context);
    case WeightFormat::q2_k: return pack_groups<BlockQ2K, 256>(from, to, total, cols, context);
    case WeightFormat::q3_k: return pack_groups<BlockQ3K, 256>(from, to, total, cols, context);
    case WeightFormat::q5_k: return pack_groups<BlockQ5K, 256>(from, to, total, cols, context);
    case WeightFormat::iq4_xs: return pack_nibbles(format, from, to, total, context);
    default: fail(ErrorCode::internal, "no packing of ", info(format).name);
  }
}

}  // namespace imp::cuda
