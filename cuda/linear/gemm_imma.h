#pragma once
#include <cstdint>

#include "linear/packed_weight.h"
#include "ops/args.h"
#include "runtime/launch.h"

namespace imp::cuda {

inline constexpr int64_t kImmaPartialBytes = int64_t{32} << 20;
inline constexpr int kImmaCounters = 4096;

/// Device memory that gemm_imma works in.
struct ImmaScratch {
  void* tokens;  // quantised activations
  int64_t tokens_bytes;
  float* partial;  // sums of blocks that share a tile
  int64_t partial_bytes;
  int32_t* counters;  // zero between launches
  int num_counters;
};

/// y (see LinearArgs; outputs of one layout) by int8 tensor cores: int32 sums within 32 (layouts with scales per 16:
/// 16) weights, fp32 across them, in an order that depends on shapes alone. Activations are quantised by
/// quantize_tokens() first, so it is two kernels. x is fp32 or bf16, y fp32 (gated: fp32 or bf16). Oracle:
/// cpp/reference/linear.cpp.
void gemm_imma(PackedLayout layout, const LinearArgs& args, const ImmaScratch& scratch, const LaunchContext& context);

inline constexpr int64_t kImmaMaxTokens = 256;
/// Null if it can run, else why not.
const char* imma_reject(PackedLayout layout, int64_t tokens, int64_t max_shared_bytes);
/// Whether few instructions expand a block of it.
bool imma_is_cheap(PackedLayout layout);

/// What ImmaScratch::tokens must hold for `tokens` rows of `cols`.
int64_t imma_tokens_bytes(int64_t tokens, int64_t cols);

/// Tile shapes, smallest number of tokens first. Benchmarks ask for one; otherwise it goes by tokens and shape.
inline constexpr int kImmaTiles = 4;
/// Null if tile `index` can do it, else why not.
const char* imma_reject_tile(int index, PackedLayout layout, int64_t max_shared_bytes);
void gemm_imma_tile(int index, PackedLayout layout, const LinearArgs& args, const ImmaScratch& scratch,
                    const LaunchContext& context);

}  // namespace imp::cuda
