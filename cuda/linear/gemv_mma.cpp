#include "linear/gemv_mma.h"

#include <algorithm>

#include "core/error.h"
#include "linear/gemv_mma_plan.h"

namespace imp::cuda {

// One a layout, each in a .cu of its own so that they compile side by side.
#define IMP_GEMV_MMA(name)                                                                         \
  void gemv_mma_##name(const LinearArgs& linear, const GemvArgs& args, const ImmaScratch& scratch, \
                       const LaunchContext& context);
IMP_GEMV_MMA(q8)
IMP_GEMV_MMA(q4k)
IMP_GEMV_MMA(q6k)
IMP_GEMV_MMA(q4k_q6k)
#undef IMP_GEMV_MMA

const char* gemv_mma_reject(PackedLayout layout, int64_t tokens, int64_t cols, int64_t max_shared_bytes) {
  if (layout != PackedLayout::kQ8 && layout != PackedLayout::kQ4K && layout != PackedLayout::kQ6K)
    return "not a layout of Q8_0, Q4_K or Q6_K";
  if (tokens > kGemvMmaMaxTokens) return "more than 16 tokens";
  if (cols % 256 != 0) return "k is not a multiple of 256";
  if (gemv_mma_shared_bytes(cols, tokens) > max_shared_bytes) return "activations do not fit into shared memory";
  return nullptr;
}

bool gemv_mma_mixes(PackedLayout a, PackedLayout b) {
  const auto [low, high] = std::minmax(a, b);
  return a == b || (low == PackedLayout::kQ4K && high == PackedLayout::kQ6K);
}

void gemv_mma(const PackedLayout* layouts, const LinearArgs& args, const ImmaScratch& scratch,
              const LaunchContext& context) {
  if (args.tokens() == 0) return;
  if (const char* reason = gemv_mma_reject(layouts[0], args.tokens(), args.x.cols, context.max_shared_bytes))
    fail(ErrorCode::internal, "gemv_mma: ", reason);
  if (imma_tokens_bytes(args.tokens(), args.x.cols) > scratch.tokens_bytes)
    fail(ErrorCode::internal, "gemv_mma's scratch is too small for ", args.tokens(), " rows of ", args.x.cols);
  GemvArgs gemv = gemv_args(args);
  bool mixed = false;
  for (int i = 1; i < gemv.num_outputs; ++i) mixed = mixed || layouts[i] != layouts[0];
  if (mixed) {
    for (int i = 0; i < gemv.num_outputs; ++i) {
      if (!gemv_mma_mixes(layouts[0], layouts[i])) fail(ErrorCode::internal, "gemv_mma cannot mix these layouts");
      gemv.outputs[i].second_layout = layouts[i] == PackedLayout::kQ6K;
    }
    return gemv_mma_q4k_q6k(args, gemv, scratch, context);
  }
  switch (layouts[0]) {
    case PackedLayout::kQ8: return gemv_mma_q8(args, gemv, scratch, context);
    case PackedLayout::kQ4K: return gemv_mma_q4k(args, gemv, scratch, context);
    case PackedLayout::kQ6K: return gemv_mma_q6k(args, gemv, scratch, context);
    default: break;
  }
}

}  // namespace imp::cuda
