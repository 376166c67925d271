#include "linear/gemm_wgmma.h"

#include <cuda_runtime.h>  // cudaLaunchKernelEx()

#include <algorithm>

#include "core/error.h"
#include "linear/gemm_wgmma_kernels.h"
#include "runtime/tensor_map.h"

namespace imp::cuda {
namespace {

struct WgmmaKernel {
  PackedLayout layout;
  WgmmaInstance (*instance)(int tile_tokens);
};
constexpr WgmmaKernel kKernels[] = {{PackedLayout::kQ8, wgmma_instance_q8},
                                    {PackedLayout::kQ4K, wgmma_instance_q4k},
                                    {PackedLayout::kQ6K, wgmma_instance_q6k},
                                    {PackedLayout::kQ5K, wgmma_instance_q5k}};

/// Null where a layout has none.
const WgmmaKernel* kernel_of(PackedLayout layout) {
  const auto found = std::ranges::find(kKernels, layout, &WgmmaKernel::layout);
  return found == std::end(kKernels) ? nullptr : found;
}

}  // namespace

const char* wgmma_reject(PackedLayout layout) {
  return kernel_of(layout) ? nullptr : "this layout has no wgmma kernel";
}

void gemm_wgmma(PackedLayout layout, const FusedGemmArgs& args, const LaunchContext& context, int tile_tokens) {
  if (args.tokens == 0) return;
  const WgmmaKernel* kernel = kernel_of(layout);
  if (!kernel) fail(ErrorCode::internal, "gemm_wgmma: ", wgmma_reject(layout));
  if (tile_tokens == 0) tile_tokens = narrow_tiles_do(args.tokens, 256) ? 128 : 256;
  const FusedGemmParams params = plan_fused_gemm(args, {128, tile_tokens, 64}, context.num_sms);
  const CUtensorMap x =
      make_tensor_map({args.x,
                       true,
                       {static_cast<uint64_t>(args.outputs[0].weight.cols), static_cast<uint64_t>(args.tokens)},
                       {static_cast<uint64_t>(args.x_stride) * 2},
                       {64, static_cast<uint32_t>(tile_tokens)}});
  const WgmmaInstance instance = kernel->instance(tile_tokens);
  launch(context, "gemm_wgmma", instance.kernel, static_cast<unsigned>(params.work.num_blocks),
         static_cast<unsigned>(instance.threads), static_cast<size_t>(instance.shared_bytes), params, x);
}

}  // namespace imp::cuda
