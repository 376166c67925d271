#include "linear/gemm_wgmma.h"

#include <cuda_runtime.h>  // cudaLaunchKernelEx()

#include "core/error.h"
#include "linear/gemm_wgmma_kernels.h"
#include "runtime/tensor_map.h"

namespace imp::cuda {
namespace {

WgmmaInstance instance_for(PackedLayout layout, int tile_tokens) {
  switch (layout) {
    case PackedLayout::kQ8: return wgmma_instance_q8(tile_tokens);
    case PackedLayout::kQ4K: return wgmma_instance_q4k(tile_tokens);
    case PackedLayout::kQ6K: return wgmma_instance_q6k(tile_tokens);
    case PackedLayout::kQ5K: return wgmma_instance_q5k(tile_tokens);
    default: fail(ErrorCode::internal, "gemm_wgmma: ", wgmma_reject(layout));
  }
}

}  // namespace

const char* wgmma_reject(PackedLayout layout) {
  switch (layout) {
    case PackedLayout::kQ8:
    case PackedLayout::kQ4K:
    case PackedLayout::kQ6K:
    case PackedLayout::kQ5K: return nullptr;
    default: return "this layout has no wgmma kernel";
  }
}

void gemm_wgmma(PackedLayout layout, const FusedGemmArgs& args, const LaunchContext& context, int tile_tokens) {
  if (args.tokens == 0) return;
  if (tile_tokens == 0) tile_tokens = narrow_tiles_do(args.tokens, 256) ? 128 : 256;
  const FusedGemmParams params = plan_fused_gemm(args, {128, tile_tokens, 64}, context.num_sms);
  const CUtensorMap x =
      make_tensor_map({args.x,
                       true,
                       {static_cast<uint64_t>(args.outputs[0].weight.cols), static_cast<uint64_t>(args.tokens)},
                       {static_cast<uint64_t>(args.x_stride) * 2},
                       {64, static_cast<uint32_t>(tile_tokens)}});
  const WgmmaInstance instance = instance_for(layout, tile_tokens);
  launch(context, "gemm_wgmma", instance.kernel, static_cast<unsigned>(params.work.num_blocks),
         static_cast<unsigned>(instance.threads), static_cast<size_t>(instance.shared_bytes), params, x);
}

}  // namespace imp::cuda
