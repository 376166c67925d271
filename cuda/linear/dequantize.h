#pragma once
#include "linear/packed_weight.h"
#include "ops/args.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// out[r - first_row, :] = bf16 of rows [first_row, first_row + rows) of a packed weight (any layout).
void dequantize_bf16(const WeightView& weight, int64_t first_row, int64_t rows, void* out,
                     const LaunchContext& context);
/// The same in f16.
void dequantize_f16_rows(const WeightView& weight, int64_t first_row, int64_t rows, void* out,
                         const LaunchContext& context);

/// See EmbedArgs. Bytes moved: a row of the table and one of fp32 a token.
void embed_rows(const EmbedArgs& args, const LaunchContext& context);

}  // namespace imp::cuda
