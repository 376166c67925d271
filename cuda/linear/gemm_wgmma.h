#pragma once
#include "linear/fused_gemm.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// Weights are expanded to bf16 on the way into shared memory: exactly dequantize_bf16()'s numbers where scale is 1.
/// k is a multiple of 32. tile_tokens: 128 or 256; 0 chooses. sm_90a only.
void gemm_wgmma(PackedLayout layout, const FusedGemmArgs& args, const LaunchContext& context, int tile_tokens = 0);

/// Null if this layout has a kernel, else why not.
const char* wgmma_reject(PackedLayout layout);

}  // namespace imp::cuda
