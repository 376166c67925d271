#include "linear/packed_weight.h"

#include <algorithm>

#include "core/error.h"
#include "quant/format.h"

namespace imp::cuda {
namespace {

/// Bytes that a layout has for each block, or for 8 of them, as packed_weight.h says.
struct PackedFormat {
  WeightFormat format;
  PackedLayout layout;
  int codes, scales = 0;  // a block
  int padded_scales = 0;  // the same, where a row's begin on 16 bytes
  int supers = 0;         // 8 blocks
  int planes = 0;         // a block; in the place of supers, and a row's begin on 16 bytes
};
constexpr PackedFormat kPackedFormats[] = {
    {.format = WeightFormat::q8_0, .layout = PackedLayout::kQ8, .codes = 32, .scales = 2},
    {.format = WeightFormat::q4_k, .layout = PackedLayout::kQ4K, .codes = 16, .scales = 2, .supers = 4},
    {.format = WeightFormat::q6_k, .layout = PackedLayout::kQ6K, .codes = 24, .scales = 2, .supers = 4},
    {.format = WeightFormat::q4_0, .layout = PackedLayout::kQ4_0, .codes = 16, .padded_scales = 2},
    {.format = WeightFormat::q4_1, .layout = PackedLayout::kQ4_1, .codes = 16, .padded_scales = 4},
    {.format = WeightFormat::iq4_nl, .layout = PackedLayout::kIQ4NL, .codes = 16, .padded_scales = 2},
    {.format = WeightFormat::iq4_xs, .layout = PackedLayout::kIQ4XS, .codes = 16, .padded_scales = 1, .supers = 4},
    {.format = WeightFormat::mxfp4, .layout = PackedLayout::kMXFP4, .codes = 16, .padded_scales = 1},
    {.format = WeightFormat::nvfp4, .layout = PackedLayout::kNVFP4, .codes = 16, .padded_scales = 2},
    {.format = WeightFormat::q5_k, .layout = PackedLayout::kQ5K, .codes = 20, .scales = 2, .supers = 4},
    {.format = WeightFormat::q5_0, .layout = PackedLayout::kQ5_0, .codes = 16, .padded_scales = 2, .planes = 4},
    {.format = WeightFormat::q5_1, .layout = PackedLayout::kQ5_1, .codes = 16, .padded_scales = 4, .planes = 4},
    {.format = WeightFormat::q3_k, .layout = PackedLayout::kQ3K, .codes = 12, .scales = 2, .supers = 4},
    {.format = WeightFormat::q2_k, .layout = PackedLayout::kQ2K, .codes = 8, .scales = 2, .supers = 4},
};

}  // namespace

PackedLayout packed_layout_of(WeightFormat format) {
  if (info(format).block_elements == 1) return PackedLayout::kRows;
  const auto packed = std::ranges::find(kPackedFormats, format, &PackedFormat::format);
  if (packed == std::end(kPackedFormats)) fail(ErrorCode::internal, "no layout for ", info(format).name);
  return packed->layout;
}

PackedSizes packed_sizes(PackedLayout layout, WeightFormat format, int64_t rows, int64_t cols) {
  if (layout == PackedLayout::kRows) return {rows * row_bytes(format, cols), 0, 0};
  const auto packed = std::ranges::find(kPackedFormats, layout, &PackedFormat::layout);
  if (packed == std::end(kPackedFormats)) fail(ErrorCode::internal, "no sizes of this layout");
  const int64_t blocks = cols / 32;
  const auto row_of = [&](int each) { return padded_row_bytes(blocks, each); };
  return {.codes_bytes = rows * blocks * packed->codes,
          .scales_bytes = rows * (blocks * packed->scales + row_of(packed->padded_scales)),
          .supers_bytes = rows * ((cols + 255) / 256 * packed->supers + row_of(packed->planes))};
}

PackedView packed_view(const WeightView& weight) {
  const auto layout = static_cast<PackedLayout>(weight.layout);
  const PackedSizes sizes = packed_sizes(layout, weight.format, weight.rows, weight.cols);
  const auto* codes = static_cast<const uint8_t*>(weight.data);
  const uint8_t* scales = codes + PackedSizes::align(sizes.codes_bytes);
  const uint8_t* supers = scales + PackedSizes::align(sizes.scales_bytes);
  return {codes, scales, supers, static_cast<int>(weight.rows), static_cast<int>(weight.cols)};
}

}  // namespace imp::cuda
