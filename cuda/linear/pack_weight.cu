// Q8_0, Q4_K and Q6_K to their layouts (linear/packed_weight.h), and the choice among all packers.
#include <algorithm>

#include "core/error.h"
#include "linear/pack_blocks.cuh"
#include "linear/pack_weight.h"

namespace imp::cuda {
namespace {

struct PackQ8_0 {
  static __device__ void pack(const uint8_t* source, const PackTarget& to, const PackPlace& at) {
    const auto b = fetch_block<BlockQ8_0>(source, at.index);
    const int width = strip_width(at.block, to.blocks_per_row);
    uint8_t* base = to.codes + strip_base(at.row, at.block, to.blocks_per_row, 32);
    for (int j = 0; j < 32; ++j) base[(j / 16 * width + at.block % 32) * 16 + j % 16] = static_cast<uint8_t>(b.qs[j]);
    reinterpret_cast<uint16_t*>(to.scales)[at.index] = b.d;
  }
};

struct PackQ4K {
  static __device__ void pack(const uint8_t* source, const PackTarget& to, const PackPlace& at) {
    const auto b = fetch_block<BlockQ4K>(source, at.index / 8);
    PackGroup group;
    unpack_k_nibbles(b.qs, at.group(), group);
    uint8_t* base = to.codes + strip_base(at.row, at.block, to.blocks_per_row, 16) + at.block % 32 * 16;
    for (int j = 0; j < 16; ++j) base[j] = static_cast<uint8_t>(group.q[j] | (group.q[j + 16] << 4));
    const DeviceScaleMin sm = scale_min(b.scales, at.group());
    store_scales(to, at, sm.scale, sm.min);
    store_super(to, at, b.d, b.dmin);
  }
};

struct PackQ6K {
  static __device__ void pack(const uint8_t* source, const PackTarget& to, const PackPlace& at) {
    const int g = at.group();
    const auto b = fetch_block<BlockQ6K>(source, at.index / 8);
    const auto code = [&](int weight) {
      const int i = g * 32 + weight;
      return ((b.ql[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4)) & 15) | (crumb(b.qh, i) << 4);
    };
    uint8_t* base = to.codes + strip_base(at.row, at.block, to.blocks_per_row, 24);
    uint8_t* nibbles = base + at.block % 32 * 16;
    uint8_t* pairs = base + strip_width(at.block, to.blocks_per_row) * 16 + at.block % 32 * 8;
    for (int j = 0; j < 16; ++j) nibbles[j] = static_cast<uint8_t>((code(j) & 15) | ((code(j + 16) & 15) << 4));
    for (int j = 0; j < 8; ++j) {
      int byte = 0;
      for (int i = 0; i < 4; ++i) byte |= code(j + i * 8) >> 4 << (2 * i);
      pairs[j] = static_cast<uint8_t>(byte);
    }
    store_scales(to, at, b.scales[g * 2], b.scales[g * 2 + 1]);
    store_super(to, at, b.d);
  }
};

struct FormatPacker {
  WeightFormat format;
  PackLaunch* launch;
};
constexpr FormatPacker kPackers[] = {
    {WeightFormat::q8_0, launch_pack<PackQ8_0>},
    {WeightFormat::q4_k, launch_pack<PackQ4K>},
    {WeightFormat::q6_k, launch_pack<PackQ6K>},
    {WeightFormat::q4_0, pack_q4_0},
    {WeightFormat::q4_1, pack_q4_1},
    {WeightFormat::iq4_nl, pack_iq4_nl},
    {WeightFormat::iq4_xs, pack_iq4_xs},
    {WeightFormat::mxfp4, pack_mxfp4},
    {WeightFormat::nvfp4, pack_nvfp4},
    {WeightFormat::q5_k, pack_q5_k},
    {WeightFormat::q5_0, pack_q5_0},
    {WeightFormat::q5_1, pack_q5_1},
    {WeightFormat::q3_k, pack_q3_k},
    {WeightFormat::q2_k, pack_q2_k},
};

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
  const auto packer = std::ranges::find(kPackers, format, &FormatPacker::format);
  if (packer == std::end(kPackers)) fail(ErrorCode::internal, "no packing of ", info(format).name);
  packer->launch(static_cast<const uint8_t*>(source), to, rows * (cols / 32), context);
}

}  // namespace imp::cuda
