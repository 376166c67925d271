#pragma once
#include "attention/attention.h"
#include "attention/decode_params.h"
#include "ops/args.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// How the contexts of a decode are cut up. A context uses as many blocks as it is long enough for, so a plan for
/// longer ones than there are costs little.
struct DecodePlan {
  int splits = 1;         // blocks a kv head, which sequences share by their lengths (short ones have one besides)
  int cluster = 1;        // or, where it is `splits`: blocks of each (sequence, kv head), which add up in shared memory
  int stages = 1;         // pages that a warp holds
  int min_pages = 1;      // a warp has at least, before another block takes part
  int warps = 4;          // of a block: 4 or 8, see max_decode_warps()
  bool pipelined = true;  // else one stage however many pages a warp has: copying and computing take turns
};

/// A plan for the longest context the batch is planned for. `pipelined`: as many stages as are worth while, else one.
DecodePlan plan_decode(const AttentionArgs& args, bool pipelined, const AttentionScratch& scratch,
                       const LaunchContext& context);

/// See AttentionArgs; oracle cpp/reference/attention.cpp. At most kDecodeRows query rows a (sequence, kv head). Scores
/// and sums in fp32, q, k, p and v in f16 on the tensor cores. Results do not depend on timing.
void attention_decode(const AttentionArgs& args, const DecodePlan& plan, const AttentionScratch& scratch,
                      const LaunchContext& context);
/// The same after qk_rope_kv(rope), in one launch and with the same bits in `out` and in the cache; q is left as it
/// was.
void rope_attention_decode(const QkRopeKvArgs& rope, const AttentionArgs& args, const DecodePlan& plan,
                           const AttentionScratch& scratch, const LaunchContext& context);

/// Floats of AttentionScratch::partial that a plan needs; 0 where nothing is split, or one cluster does.
int64_t decode_partial_floats(const DecodePlan& plan, int num_kv_heads, int head_dim);

/// The most that any plan needs.
int64_t max_decode_partial_floats(const LaunchContext& context);
/// Blocks that a cluster of these kernels may have on a device; 1 where it has no clusters.
int decode_max_cluster(int device);

/// For benchmarks of single instances. `rope` may be null.
DecodeParams decode_params(const QkRopeKvArgs* rope, const AttentionArgs& args, const DecodePlan& plan,
                           const AttentionScratch& scratch);

}  // namespace imp::cuda
