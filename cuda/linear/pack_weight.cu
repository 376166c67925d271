#include "core/error.h"
#include "linear/pack_blocks.cuh"
#include "linear/pack_weight.h"

namespace imp::cuda {

// In files of their own.
void pack_nibbles(WeightFormat format, const uint8_t* from, const PackTarget& to, int64_t total,
                  const LaunchContext& context);
void pack_q5k(const uint8_t* from, const PackTarget& to, int64_t total, const LaunchContext& context);
void pack_q5_0(const uint8_t* from, const PackTarget& to, int64_t total, const LaunchContext& context);
void pack_q5_1(const uint8_t* from, const PackTarget& to, int64_t total, const LaunchContext& context);
void pack_q3k(const uint8_t* from, const PackTarget& to, int64_t total, const LaunchContext& context);
void pack_q2k(const uint8_t* from, const PackTarget& to, int64_t total, const LaunchContext& context);

namespace {

__global__ void pack_q8_kernel(const uint8_t* source, PackTarget to, int64_t total) {
  const int64_t index = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (index >= total) return;
  const auto b = fetch_block<BlockQ8_0>(source, index);
  const int64_t row = index / to.blocks_per_row;
  const int block = static_cast<int>(index % to.blocks_per_row), width = strip_width(block, to.blocks_per_row);
  uint8_t* base = to.codes + strip_base(row, block, to.blocks_per_row, 32);
  for (int j = 0; j < 32; ++j) base[(j / 16 * width + block % 32) * 16 + j % 16] = static_cast<uint8_t>(b.qs[j]);
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
  const auto code = [&](int weight) {
    const int i = g * 32 + weight;
    return ((b.ql[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4)) & 15) | (crumb(b.qh, i) << 4);
  };
  uint8_t* base = to.codes + strip_base(row, block, to.blocks_per_row, 24);
  uint8_t* nibbles = base + block % 32 * 16;
  uint8_t* pairs = base + strip_width(block, to.blocks_per_row) * 16 + block % 32 * 8;
  for (int j = 0; j < 16; ++j) nibbles[j] = static_cast<uint8_t>((code(j) & 15) | ((code(j + 16) & 15) << 4));
  for (int j = 0; j < 8; ++j) {
    int byte = 0;
    for (int i = 0; i < 4; ++i) byte |= code(j + i * 8) >> 4 << (2 * i);
    pairs[j] = static_cast<uint8_t>(byte);
  }
  to.scales[index * 2] = static_cast<uint8_t>(b.scales[g * 2]);
  to.scales[index * 2 + 1] = static_cast<uint8_t>(b.scales[g * 2 + 1]);
  if (g == 0) reinterpret_cast<uint16_t*>(to.supers)[index / 8 * 2] = b.d;
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
    case WeightFormat::q5_0: return pack_q5_0(from, to, total, context);
    case WeightFormat::q5_1: return pack_q5_1(from, to, total, context);
    case WeightFormat::iq4_nl: return pack_nibbles(format, from, to, total, context);
    case WeightFormat::mxfp4: return pack_nibbles(format, from, to, total, context);
    case WeightFormat::nvfp4: return pack_nibbles(format, from, to, total, context);
    case WeightFormat::q2_k: return pack_q2k(from, to, total, context);
    case WeightFormat::q3_k: return pack_q3k(from, to, total, context);
    case WeightFormat::q5_k: return pack_q5k(from, to, total, context);
    case WeightFormat::iq4_xs: return pack_nibbles(format, from, to, total, context);
    default: fail(ErrorCode::internal, "no packing of ", info(format).name);
  }
}

}  // namespace imp::cuda
