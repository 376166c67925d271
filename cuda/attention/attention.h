#pragma once
#include "ops/args.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// Scratch of the split-KV decode: partial results of all splits, and one counter a (sequence, kv head), zero between
/// calls.
struct AttentionScratch {
  float* partial;
  int64_t partial_floats;
  int32_t* counters;
  int num_counters;
};

/// Query rows of one kv head that a decode block holds: tokens of a sequence times heads of the group.
inline constexpr int kDecodeRows = 16;
inline constexpr int kMaxSplits = 64;

/// Widths of a head that there are instances for.
inline constexpr int kAttentionHeadDims[] = {16, 32, 64, 80, 96, 128, 256};
bool attention_head_dim_supported(int head_dim);

/// See AttentionArgs; oracle cpp/reference/attention.cpp. Scores and sums in fp32, q, k, p and v in f16 on the tensor
/// cores. tiled: a block takes 64 or 128 query rows (tokens x heads of one kv group) and
/// streams the keys they see. decode:
/// at most kDecodeRows rows a (sequence, kv head); the keys are split over `num_splits` blocks, and the last block to
/// finish adds the parts up in their order, so that results do not depend on timing.
void attention_tiled(const AttentionArgs& args, const LaunchContext& context);
/// The same for heads of 128, Q in registers too, and with what the tensor cores add up in: attention_mma.cuh.
enum class Fa2Sums : uint8_t { fp32, f16_scores, f16 };
void attention_fa2(const AttentionArgs& args, Fa2Sums sums, const LaunchContext& context);
/// Memory for attention_scores: probabilities of as many query rows as it holds.
struct ScoresBuffer {
  void* data;
  int64_t bytes;
};
/// Prefill with the matrix of probabilities in memory, any head width that is a multiple of 16: attention_scores.cu.
void attention_scores(const AttentionArgs& args, const ScoresBuffer& scores, const LaunchContext& context);
/// The same on the wgmma of sm_90a, for heads of 64, 128 and 256 and cache blocks of 16 tokens: attention_wgmma.cuh.
inline constexpr int kWgmmaHeadDims[] = {64, 128, 256};
void attention_wgmma(const AttentionArgs& args, const LaunchContext& context);
void attention_decode(const AttentionArgs& args, int num_splits, const AttentionScratch& scratch,
                      const LaunchContext& context);

/// Floats of AttentionScratch::partial that a decode of this size needs.
int64_t decode_partial_floats(int num_sequences, int num_kv_heads, int num_splits, int head_dim);

}  // namespace imp::cuda
