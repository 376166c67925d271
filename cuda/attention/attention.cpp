#include "attention/attention.h"

#include <algorithm>

#include "core/error.h"

namespace imp::cuda {

// One head width a .cu, so that they compile side by side.
void attention_tiled_hd16(const AttentionArgs&, const LaunchContext&);
void attention_wgmma_hd64(const AttentionArgs&, const LaunchContext&);
void attention_wgmma_hd128(const AttentionArgs&, const LaunchContext&);
void attention_wgmma_hd256(const AttentionArgs&, const LaunchContext&);
void attention_tiled_hd32(const AttentionArgs&, const LaunchContext&);
void attention_tiled_hd64(const AttentionArgs&, const LaunchContext&);
void attention_tiled_hd80(const AttentionArgs&, const LaunchContext&);
void attention_tiled_hd96(const AttentionArgs&, const LaunchContext&);
void attention_tiled_hd128(const AttentionArgs&, const LaunchContext&);
void attention_tiled_hd256(const AttentionArgs&, const LaunchContext&);

bool attention_head_dim_supported(int head_dim) {
  return std::ranges::find(kAttentionHeadDims, head_dim) != std::end(kAttentionHeadDims);
}

void attention_tiled(const AttentionArgs& args, const LaunchContext& context) {
  if (args.q.rows == 0) return;
  switch (args.cache.head_dim) {
    case 16: return attention_tiled_hd16(args, context);
    case 32: return attention_tiled_hd32(args, context);
    case 64: return attention_tiled_hd64(args, context);
    case 80: return attention_tiled_hd80(args, context);
    case 96: return attention_tiled_hd96(args, context);
    case 128: return attention_tiled_hd128(args, context);
    case 256: return attention_tiled_hd256(args, context);
    default: fail(ErrorCode::unsupported, "no attention kernel for head_dim ", args.cache.head_dim);
  }
}

void attention_wgmma(const AttentionArgs& args, const LaunchContext& context) {
  if (args.q.rows == 0) return;
  switch (args.cache.head_dim) {
    case 64: return attention_wgmma_hd64(args, context);
    case 128: return attention_wgmma_hd128(args, context);
    case 256: return attention_wgmma_hd256(args, context);
    default: fail(ErrorCode::unsupported, "no wgmma attention kernel for head_dim ", args.cache.head_dim);
  }
}

}  // namespace imp::cuda
