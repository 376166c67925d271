#pragma once
#include "linear/packed_weight.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// out[r - first_row, :] = bf16 of rows [first_row, first_row + rows) of a packed weight (any layout).
void dequantize_bf16(const WeightView& weight, int64_t first_row, int64_t rows, void* out,
                     const LaunchContext& context);

/// out[t, :] = scale * row ids[t] of the table, fp32.
struct EmbedRowsArgs {
  WeightView table;
  const int32_t* ids;
  float scale;
  float* out;
  int64_t out_stride;
  int tokens;
};
void embed_rows(const EmbedRowsArgs& args, const LaunchContext& context);

}  // namespace imp::cuda
