#pragma once
#include "linear/fused_gemm.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// Q4_K weights are expanded in the registers that mma takes them from: exactly dequantize_bf16()'s numbers where scale
/// is 1. sm_80 and later. tile_tokens: 32, 64 or 128; 0 chooses.
void gemm_hmma_q4k(const FusedGemmArgs& args, const LaunchContext& context, int tile_tokens = 0);

/// Shared memory that a block takes at most.
inline constexpr int kHmmaSharedBytes = 98 * 1024;

}  // namespace imp::cuda
