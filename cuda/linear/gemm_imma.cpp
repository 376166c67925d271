#include <algorithm>

#include "core/error.h"
#include "linear/gemm_imma_kernels.h"
#include "linear/token_codes.h"

namespace imp::cuda {
namespace {

constexpr const ImmaKernel* kKernels[] = {&imma_q8,    &imma_q4k,   &imma_q6k,   &imma_q4_0,  &imma_q4_1,
                                          &imma_iq4nl, &imma_iq4xs, &imma_mxfp4, &imma_nvfp4, &imma_q5k,
                                          &imma_q5_0,  &imma_q5_1,  &imma_q3k,   &imma_q2k};

/// Null where a layout has none.
const ImmaKernel* kernel_of(PackedLayout layout) {
  const auto found = std::ranges::find(kKernels, layout, &ImmaKernel::layout);
  return found == std::end(kKernels) ? nullptr : *found;
}

/// The tile for so many tokens, or -1.
int choose_tile(PackedLayout layout, int64_t tokens, int64_t max_shared_bytes) {
  const ImmaKernel* kernel = kernel_of(layout);
  if (!kernel) return -1;
  int tile = tokens <= 8 ? 0 : tokens <= 16 ? 1 : tokens <= 32 ? 2 : kernel->traits.widest;
  while (tile >= 0 && kernel->reject(tile, max_shared_bytes)) --tile;
  return tile;
}

}  // namespace

const char* imma_reject_tile(int index, PackedLayout layout, int64_t max_shared_bytes) {
  const ImmaKernel* kernel = kernel_of(layout);
  return kernel ? kernel->reject(index, max_shared_bytes) : "no integer codes in this layout";
}

void gemm_imma_tile(int index, PackedLayout layout, const LinearArgs& args, const ImmaScratch& scratch,
                    const LaunchContext& context) {
  if (args.tokens() == 0) return;
  if (const char* reason = imma_reject_tile(index, layout, context.max_shared_bytes))
    fail(ErrorCode::internal, "gemm_imma with tile ", index, ": ", reason);
  if (imma_tokens_bytes(args.tokens(), args.x.cols) > scratch.tokens_bytes)
    fail(ErrorCode::internal, "gemm_imma's scratch is too small for ", args.tokens(), " rows of ", args.x.cols);
  kernel_of(layout)->launch(index, args, scratch, context);
}

int64_t imma_tokens_bytes(int64_t tokens, int64_t cols) {
  // The widest tile and the shortest slab pad most.
  return TokenCodes(64, 16, static_cast<int>((cols + 1023) / 1024 * 1024)).bytes(static_cast<int>(tokens));
}

bool imma_is_cheap(PackedLayout layout) {
  const ImmaKernel* kernel = kernel_of(layout);
  return kernel && kernel->traits.cheap;
}

int imma_splits(int tiles, int slabs, int64_t tile_bytes, const ImmaScratch& scratch, int num_sms) {
  int best = 1;
  double best_cost = 1e30;
  for (int splits = 1; splits <= std::min(8, slabs); ++splits) {
    if (splits > 1 && (tile_bytes * tiles * splits > scratch.partial_bytes || tiles > scratch.num_counters)) break;
    const int rounds = (tiles * splits + num_sms - 1) / num_sms;
    // A tile costs two slabs' time to start and to end; sums in memory cost about one slab's more.
    const double cost = rounds * (double((slabs + splits - 1) / splits) + 2 + (splits > 1 ? 1.5 : 0));
    if (cost < best_cost * 0.97) best = splits, best_cost = cost;
  }
  return best;
}

const char* imma_reject(PackedLayout layout, int64_t tokens, int64_t max_shared_bytes) {
  return choose_tile(layout, tokens, max_shared_bytes) < 0 ? "no tile fits into shared memory" : nullptr;
}

void gemm_imma(PackedLayout layout, const LinearArgs& args, const ImmaScratch& scratch, const LaunchContext& context) {
  gemm_imma_tile(choose_tile(layout, args.tokens(), context.max_shared_bytes), layout, args, scratch, context);
}

}  // namespace imp::cuda
