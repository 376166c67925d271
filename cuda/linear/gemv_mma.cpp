#include "linear/gemv_mma.h"

#include <algorithm>

#include "core/error.h"
#include "linear/gemv_mma_plan.h"

namespace imp::cuda {

// Each in a .cu of its own, so that they compile side by side.
using GemvMmaLaunch = void(const LinearArgs& linear, const GemvArgs& args, const ImmaScratch& scratch,
                           const LaunchContext& context);
GemvMmaLaunch gemv_mma_q8, gemv_mma_q4k, gemv_mma_q6k, gemv_mma_q4k_q6k;

namespace {

/// Outputs of a layout, or of two in one launch.
struct GemvMmaKernel {
  PackedLayout first, second;
  GemvMmaLaunch* launch;
};
constexpr GemvMmaKernel kKernels[] = {
    {PackedLayout::kQ8, PackedLayout::kQ8, gemv_mma_q8},
    {PackedLayout::kQ4K, PackedLayout::kQ4K, gemv_mma_q4k},
    {PackedLayout::kQ6K, PackedLayout::kQ6K, gemv_mma_q6k},
    {PackedLayout::kQ4K, PackedLayout::kQ6K, gemv_mma_q4k_q6k},  // Q4_K_M
};

const GemvMmaKernel* kernel_of(PackedLayout a, PackedLayout b) {
  for (const GemvMmaKernel& kernel : kKernels)
    if ((kernel.first == a && kernel.second == b) || (kernel.first == b && kernel.second == a)) return &kernel;
  return nullptr;
}

}  // namespace

const char* gemv_mma_reject(PackedLayout layout, int64_t tokens, int64_t cols, int64_t max_shared_bytes) {
  if (!kernel_of(layout, layout)) return "this layout has no gemv_mma kernel";
  if (tokens > kGemvMmaMaxTokens) return "more than 16 tokens";
  if (cols % 256 != 0) return "k is not a multiple of 256";
  if (gemv_mma_shared_bytes(cols, tokens) > max_shared_bytes) return "activations do not fit into shared memory";
  return nullptr;
}

bool gemv_mma_mixes(PackedLayout a, PackedLayout b) { return kernel_of(a, b) != nullptr; }

void gemv_mma(const PackedLayout* layouts, const LinearArgs& args, const ImmaScratch& scratch,
              const LaunchContext& context) {
  if (args.tokens() == 0) return;
  if (const char* reason = gemv_mma_reject(layouts[0], args.tokens(), args.x.cols, context.max_shared_bytes))
    fail(ErrorCode::internal, "gemv_mma: ", reason);
  if (imma_tokens_bytes(args.tokens(), args.x.cols) > scratch.tokens_bytes)
    fail(ErrorCode::internal, "gemv_mma's scratch is too small for ", args.tokens(), " rows of ", args.x.cols);
  GemvArgs gemv = gemv_args(args);
  const PackedLayout* end = layouts + gemv.num_outputs;
  const PackedLayout* other = std::find_if(layouts, end, [&](PackedLayout layout) { return layout != layouts[0]; });
  const GemvMmaKernel* kernel = kernel_of(layouts[0], other == end ? layouts[0] : *other);
  if (!kernel || std::any_of(other, end, [&](PackedLayout l) { return l != kernel->first && l != kernel->second; }))
    fail(ErrorCode::internal, "gemv_mma has no kernel for these layouts together");
  for (int i = 0; i < gemv.num_outputs; ++i) gemv.outputs[i].second_layout = layouts[i] != kernel->first;
  kernel->launch(args, gemv, scratch, context);
}

}  // namespace imp::cuda
