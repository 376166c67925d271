#pragma once
// Which codec (device/packed_codecs.cuh) a packed layout has, and which type the numbers of rows that are not packed.
#include <cuda_bf16.h>

#include "core/error.h"
#include "device/codec_few_bits.cuh"
#include "device/codec_five_bits.cuh"
#include "device/nibble_codec.cuh"
#include "device/packed_codecs.cuh"
#include "linear/packed_weight.h"

namespace imp::cuda {

/// Calls `use` with the codec of a packed layout.
template <class Use>
void with_codec(PackedLayout layout, const Use& use) {
  switch (layout) {
    case PackedLayout::kQ8: return use(CodecQ8{});
    case PackedLayout::kQ4K: return use(CodecQ4K{});
    case PackedLayout::kQ6K: return use(CodecQ6K{});
    case PackedLayout::kQ4_0: return use(CodecNibbles<NibbleQ4_0>{});
    case PackedLayout::kQ4_1: return use(CodecNibbles<NibbleQ4_1>{});
    case PackedLayout::kIQ4NL: return use(CodecNibbles<NibbleIQ4NL>{});
    case PackedLayout::kIQ4XS: return use(CodecNibbles<NibbleIQ4XS>{});
    case PackedLayout::kMXFP4: return use(CodecNibbles<NibbleMXFP4>{});
    case PackedLayout::kNVFP4: return use(CodecNibbles<NibbleNVFP4>{});
    case PackedLayout::kQ5K: return use(CodecQ5K{});
    case PackedLayout::kQ5_0: return use(CodecQ5<false>{});
    case PackedLayout::kQ5_1: return use(CodecQ5<true>{});
    case PackedLayout::kQ3K: return use(CodecQ3K{});
    case PackedLayout::kQ2K: return use(CodecQ2K{});
    case PackedLayout::kRows: break;
  }
  fail(ErrorCode::internal, "this layout has no codec");
}

/// Calls `use` with a number of a format of PackedLayout::kRows.
template <class Use>
void with_number(WeightFormat format, const Use& use) {
  switch (format) {
    case WeightFormat::f32: return use(float{});
    case WeightFormat::f16: return use(__half{});
    case WeightFormat::bf16: return use(__nv_bfloat16{});
    default: fail(ErrorCode::internal, "rows of ", info(format).name, " are no numbers");
  }
}

}  // namespace imp::cuda
