#pragma once
#include "linear/packed_weight.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// Rearranges rows [first_row, first_row + rows) of a weight of `total_rows`: their blocks as in the file are on the
/// device at `source` (any alignment), `packed` holds packed_sizes(..., total_rows, cols).total() bytes. `cols` is a
/// multiple of the format's block. Runs at load only.
void pack_weight(WeightFormat format, const void* source, int64_t first_row, int64_t rows, int64_t total_rows,
                 int64_t cols, void* packed, const LaunchContext& context);

}  // namespace imp::cuda
