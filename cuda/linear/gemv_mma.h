#pragma once
#include "linear/gemm_imma.h"
#include "linear/gemv.h"

namespace imp::cuda {

inline constexpr int kGemvMmaMaxTokens = 16;

/// y (see LinearArgs; fp32) for up to kGemvMmaMaxTokens tokens by int8 tensor cores: an instruction multiplies 16 rows
/// with 8 tokens, so that these cost little more than one. layouts[i] is that of output i: all the same, or
/// gemv_mma_mixes() them. Activations are quantised by quantize_token_pairs() first, so it is two kernels. Sums are
/// int32 within 32 (kQ6K: 16) weights, fp32 across them, in an order that depends on shapes alone. Bytes moved: the
/// packed weights. Oracle: cpp/reference/linear.cpp.
void gemv_mma(const PackedLayout* layouts, const LinearArgs& args, const ImmaScratch& scratch,
              const LaunchContext& context);
/// Whether outputs of both layouts can be computed in one launch.
bool gemv_mma_mixes(PackedLayout a, PackedLayout b);
/// Null if it can run, else why not.
const char* gemv_mma_reject(PackedLayout layout, int64_t tokens, int64_t cols, int64_t max_shared_bytes);

}  // namespace imp::cuda
