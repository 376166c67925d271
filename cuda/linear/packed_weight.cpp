#include "linear/packed_weight.h"

#include "core/error.h"
#include "quant/format.h"

namespace imp::cuda {

PackedLayout packed_layout_of(WeightFormat format) {
  switch (format) {
    case WeightFormat::f32:
    case WeightFormat::f16:
    case WeightFormat::bf16: return PackedLayout::kRows;
    case WeightFormat::q8_0: return PackedLayout::kQ8;
    case WeightFormat::q4_k: return PackedLayout::kQ4K;
    case WeightFormat::q6_k: return PackedLayout::kQ6K;
    case WeightFormat::q4_0: return PackedLayout::kQ4_0;
    case WeightFormat::q4_1: return PackedLayout::kQ4_1;
    case WeightFormat::iq4_nl: return PackedLayout::kIQ4NL;
    case WeightFormat::iq4_xs: return PackedLayout::kIQ4XS;
    case WeightFormat::mxfp4: return PackedLayout::kMXFP4;
    case WeightFormat::nvfp4: return PackedLayout::kNVFP4;
    case WeightFormat::q5_k: return PackedLayout::kQ5K;
    case WeightFormat::q5_0: return PackedLayout::kQ5_0;
    case WeightFormat::q5_1: return PackedLayout::kQ5_1;
    case WeightFormat::q3_k: return PackedLayout::kQ3K;
    case WeightFormat::q2_k: return PackedLayout::kQ2K;
  }
  fail(ErrorCode::internal, "no layout for this format");
}

PackedSizes packed_sizes(PackedLayout layout, WeightFormat format, int64_t rows, int64_t cols) {
  const int64_t blocks = rows * (cols / 32);
  const auto padded = [&](int each) { return rows * padded_row_bytes(cols / 32, each); };
  const int64_t supers = rows * ((cols + 255) / 256);
  switch (layout) {
    case PackedLayout::kRows: return {rows * row_bytes(format, cols), 0, 0};
    case PackedLayout::kQ8: return {blocks * 32, blocks * 2, 0};
    case PackedLayout::kQ4K: return {blocks * 16, blocks * 2, supers * 4};
    case PackedLayout::kQ6K: return {blocks * 24, blocks * 2, supers * 4};
    case PackedLayout::kQ4_0: return {blocks * 16, padded(2), 0};
    case PackedLayout::kQ4_1: return {blocks * 16, padded(4), 0};
    case PackedLayout::kIQ4NL: return {blocks * 16, padded(2), 0};
    case PackedLayout::kIQ4XS: return {blocks * 16, padded(1), supers * 4};
    case PackedLayout::kMXFP4: return {blocks * 16, padded(1), 0};
    case PackedLayout::kNVFP4: return {blocks * 16, padded(2), 0};
    case PackedLayout::kQ5K: return {blocks * 20, blocks * 2, supers * 4};
    case PackedLayout::kQ5_0: return {blocks * 16, padded(2), padded(4)};
    case PackedLayout::kQ5_1: return {blocks * 16, padded(4), padded(4)};
    case PackedLayout::kQ3K: return {blocks * 12, blocks * 2, supers * 4};
    case PackedLayout::kQ2K: return {blocks * 8, blocks * 2, supers * 4};
  }
  return {};
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
