#include "linear/gemm_imma.h"

#include <algorithm>

#include "core/error.h"
#include "linear/token_codes.h"

namespace imp::cuda {

// One a layout, each in a .cu of its own so that they compile side by side.
#define IMP_IMMA_LAYOUT(name)                                         \
  const char* imma_reject_##name(int tile, int64_t max_shared_bytes); \
  void gemm_imma_##name(int tile, const LinearArgs& args, const ImmaScratch& scratch, const LaunchContext& context);
IMP_IMMA_LAYOUT(q8)
IMP_IMMA_LAYOUT(q4k)
IMP_IMMA_LAYOUT(q6k)
IMP_IMMA_LAYOUT(q4_0)
IMP_IMMA_LAYOUT(q4_1)
IMP_IMMA_LAYOUT(iq4nl)
IMP_IMMA_LAYOUT(iq4xs)
IMP_IMMA_LAYOUT(mxfp4)
IMP_IMMA_LAYOUT(nvfp4)
IMP_IMMA_LAYOUT(q5k)
IMP_IMMA_LAYOUT(q5_0)
IMP_IMMA_LAYOUT(q5_1)
IMP_IMMA_LAYOUT(q3k)
IMP_IMMA_LAYOUT(q2k)
#undef IMP_IMMA_LAYOUT

const char* imma_reject_tile(int index, PackedLayout layout, int64_t max_shared_bytes) {
  switch (layout) {
    case PackedLayout::kQ8: return imma_reject_q8(index, max_shared_bytes);
    case PackedLayout::kQ4K: return imma_reject_q4k(index, max_shared_bytes);
    case PackedLayout::kQ6K: return imma_reject_q6k(index, max_shared_bytes);
    case PackedLayout::kQ4_0: return imma_reject_q4_0(index, max_shared_bytes);
    case PackedLayout::kQ4_1: return imma_reject_q4_1(index, max_shared_bytes);
    case PackedLayout::kIQ4NL: return imma_reject_iq4nl(index, max_shared_bytes);
    case PackedLayout::kIQ4XS: return imma_reject_iq4xs(index, max_shared_bytes);
    case PackedLayout::kMXFP4: return imma_reject_mxfp4(index, max_shared_bytes);
    case PackedLayout::kNVFP4: return imma_reject_nvfp4(index, max_shared_bytes);
    case PackedLayout::kQ5K: return imma_reject_q5k(index, max_shared_bytes);
    case PackedLayout::kQ5_0: return imma_reject_q5_0(index, max_shared_bytes);
    case PackedLayout::kQ5_1: return imma_reject_q5_1(index, max_shared_bytes);
    case PackedLayout::kQ3K: return imma_reject_q3k(index, max_shared_bytes);
    case PackedLayout::kQ2K: return imma_reject_q2k(index, max_shared_bytes);
    case PackedLayout::kRows: break;
  }
  return "no integer codes in this layout";
}

void gemm_imma_tile(int index, PackedLayout layout, const LinearArgs& args, const ImmaScratch& scratch,
                    const LaunchContext& context) {
  if (args.tokens() == 0) return;
  if (const char* reason = imma_reject_tile(index, layout, context.max_shared_bytes))
    fail(ErrorCode::internal, "gemm_imma with tile ", index, ": ", reason);
  if (imma_tokens_bytes(args.tokens(), args.x.cols) > scratch.tokens_bytes)
    fail(ErrorCode::internal, "gemm_imma's scratch is too small for ", args.tokens(), " rows of ", args.x.cols);
  switch (layout) {
    case PackedLayout::kQ8: return gemm_imma_q8(index, args, scratch, context);
    case PackedLayout::kQ4K: return gemm_imma_q4k(index, args, scratch, context);
    case PackedLayout::kQ6K: return gemm_imma_q6k(index, args, scratch, context);
    case PackedLayout::kQ4_0: return gemm_imma_q4_0(index, args, scratch, context);
    case PackedLayout::kQ4_1: return gemm_imma_q4_1(index, args, scratch, context);
    case PackedLayout::kIQ4NL: return gemm_imma_iq4nl(index, args, scratch, context);
    case PackedLayout::kIQ4XS: return gemm_imma_iq4xs(index, args, scratch, context);
    case PackedLayout::kMXFP4: return gemm_imma_mxfp4(index, args, scratch, context);
    case PackedLayout::kNVFP4: return gemm_imma_nvfp4(index, args, scratch, context);
    case PackedLayout::kQ5K: return gemm_imma_q5k(index, args, scratch, context);
    case PackedLayout::kQ5_0: return gemm_imma_q5_0(index, args, scratch, context);
    case PackedLayout::kQ5_1: return gemm_imma_q5_1(index, args, scratch, context);
    case PackedLayout::kQ3K: return gemm_imma_q3k(index, args, scratch, context);
    case PackedLayout::kQ2K: return gemm_imma_q2k(index, args, scratch, context);
    case PackedLayout::kRows: break;
  }
}

int64_t imma_tokens_bytes(int64_t tokens, int64_t cols) {
  // The widest tile and the shortest slab pad most.
  return TokenCodes(64, 16, static_cast<int>((cols + 1023) / 1024 * 1024)).bytes(static_cast<int>(tokens));
}

/// The tile for so many tokens, or -1.
int choose_tile(PackedLayout layout, int64_t tokens, int64_t max_shared_bytes) {
  // Formats with more to do for a scale gain nothing from the wider tile.
  const int widest = layout == PackedLayout::kQ8 ? 3 : 2;
  int tile = tokens <= 8 ? 0 : tokens <= 16 ? 1 : tokens <= 32 ? 2 : widest;
  while (tile >= 0 && imma_reject_tile(tile, layout, max_shared_bytes)) --tile;
  return tile;
}

const char* imma_reject(PackedLayout layout, int64_t tokens, int64_t max_shared_bytes) {
  return choose_tile(layout, tokens, max_shared_bytes) < 0 ? "no tile fits into shared memory" : nullptr;
}

void gemm_imma(PackedLayout layout, const LinearArgs& args, const ImmaScratch& scratch, const LaunchContext& context) {
  gemm_imma_tile(choose_tile(layout, args.tokens(), context.max_shared_bytes), layout, args, scratch, context);
}

}  // namespace imp::cuda
