#pragma once
#include "ops/args.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// Scratch of the split decode: partial results of all splits, and one counter for each block of a cluster of a
/// (sequence, kv head), zero between calls.
struct AttentionScratch {
  float* partial;
  int64_t partial_floats;
  int32_t* counters;
  int num_counters;
};

/// Query rows of one kv head that a decode block holds: tokens of a sequence times heads of the group.
inline constexpr int kDecodeRows = 16;

/// See AttentionArgs; oracle cpp/reference/attention.cpp; heads of the widths of attention/head_widths.h. Scores and
/// sums in fp32, q, k, p and v in f16 on the tensor cores. A block takes 64 or 128 query rows (tokens x heads of one kv
/// group) and streams the keys they see. Few rows: attention_decode.h.
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
/// The same on the wgmma of sm_90a, for widths that have such a kernel and cache blocks of 16 tokens:
/// attention_wgmma.cuh.
void attention_wgmma(const AttentionArgs& args, const LaunchContext& context);

}  // namespace imp::cuda
