#include <algorithm>

#include "attention/attention_decode.h"
#include "attention/head_widths.h"
#include "core/error.h"

namespace imp::cuda {
namespace {

constexpr int kMaxStages = 4;
// A GEMV takes about half of a multiprocessor's shared memory. One sequence's attention takes less than the other half
// and runs beside the one before it and the one behind it; with more in flight its layer of an 8B model is 10 us slower
// at every depth from 4096 on, for their beginnings and ends no longer overlap.
constexpr int kSharedBytesBesideGemv = 109 * 1024;
constexpr int kSharedBytes = 150 * 1024;  // more in flight than this brings nothing
constexpr int kSharedBytesOfTwo = 112 * 1024;
constexpr int kMaxSplits = 128;
constexpr int kClusterPages = 128;   // longer contexts want all multiprocessors, of which clusters leave some alone
constexpr int kLonePages = 32;       // of a sequence among others that one block is enough for
constexpr int kStaticShared = 1024;  // the kernel's own arrays

DecodeKernel kernel_of(int head_dim, int row_tiles, int warps) {
  const HeadWidth* width = head_width(head_dim);
  if (!width) fail(ErrorCode::unsupported, "no attention kernel for head_dim ", head_dim);
  return width->decode(row_tiles, warps);
}

int rows_of(const AttentionArgs& args) { return args.batch.max_query_len * (args.num_heads / args.cache.num_kv_heads); }
int row_tiles_of(const AttentionArgs& args) { return (rows_of(args) + 7) / 8; }

void launch_decode(const char* name, const QkRopeKvArgs* rope, const AttentionArgs& args, const DecodePlan& plan,
                   const AttentionScratch& scratch, const LaunchContext& context) {
  if (args.q.rows == 0) return;
  const int head_dim = args.cache.head_dim, kv_heads = args.cache.num_kv_heads, tiles = row_tiles_of(args);
  if (rows_of(args) > kDecodeRows)
    fail(ErrorCode::internal, "decode attention of ", rows_of(args), " query rows a kv head; it takes ", kDecodeRows);
  const DecodeParams params = decode_params(rope, args, plan, scratch);
  const DecodeShared shared =
      decode_shared(head_dim, plan.warps, plan.stages, tiles * 8, params.max_tokens, plan.cluster);
  const auto heads = static_cast<unsigned>(kv_heads), sequences = static_cast<unsigned>(args.batch.num_sequences),
             splits = static_cast<unsigned>(plan.splits);
  // Sequences that are split have at most `splits` blocks together, the others one each.
  const unsigned blocks = splits == 1 ? sequences : sequences == 1 ? splits : splits + sequences;
  const dim3 grid = plan.cluster > 1 ? dim3(splits, heads, sequences) : dim3(heads, blocks);
  launch_clusters(context, name, kernel_of(head_dim, tiles, plan.warps), grid, plan.warps * 32,
                  static_cast<unsigned>(plan.cluster), static_cast<size_t>(shared.total), params);
}

}  // namespace

DecodeParams decode_params(const QkRopeKvArgs* rope, const AttentionArgs& args, const DecodePlan& plan,
                           const AttentionScratch& scratch) {
  if (args.cache.block_size != kPageKeys)
    fail(ErrorCode::unsupported, "blocks of ", args.cache.block_size, " tokens in the KV cache; the CUDA kernels take ",
         kPageKeys);
  DecodeParams p = {};
  p.q = args.q.row<float>(0), p.q_stride = args.q.row_stride;
  p.out = args.out.data, p.out_stride = args.out.row_stride, p.out_bf16 = args.out.dtype == DType::bf16;
  p.k_cache = static_cast<__half*>(args.cache.k), p.v_cache = static_cast<__half*>(args.cache.v);
  p.num_kv_heads = args.cache.num_kv_heads, p.group = args.num_heads / args.cache.num_kv_heads;
  p.scale = args.scale, p.softcap = args.softcap, p.window = args.sliding_window;
  p.query_start = args.batch.query_start, p.context_len = args.batch.context_len;
  p.block_tables = args.batch.block_tables, p.block_table_stride = args.batch.block_table_stride;
  p.num_sequences = args.batch.num_sequences, p.splits = plan.splits;
  p.max_tokens = args.batch.max_query_len;
  p.cluster = plan.cluster, p.stages = plan.stages, p.min_pages = plan.min_pages;
  p.partial = scratch.partial, p.counters = scratch.counters;
  if (rope) {
    p.fused = true;
    p.k = rope->k.row<float>(0), p.k_stride = rope->k.row_stride;
    p.v = rope->v.row<float>(0), p.v_stride = rope->v.row_stride;
    p.q_norm = rope->q_norm, p.k_norm = rope->k_norm, p.epsilon = rope->norm_epsilon;
    p.interleaved = rope->pairing == RopePairing::interleaved, p.rotary_dim = rope->rotary_dim;
    p.inv_freq = rope->inv_freq, p.magnitude = rope->rope_magnitude;
  }
  return p;
}

int64_t decode_partial_floats(const DecodePlan& plan, int num_kv_heads, int head_dim) {
  return plan.splits == plan.cluster ? 0 : num_kv_heads * plan.splits * decode_part_floats(kDecodeRows, head_dim);
}

// A plan has at most two blocks a multiprocessor.
int64_t max_decode_partial_floats(const LaunchContext& context) {
  return decode_partial_floats({.splits = 2 * context.num_sms}, 1, 256);
}

int decode_max_cluster(int device) {
  int has_clusters = 0;
  check(cudaDeviceGetAttribute(&has_clusters, cudaDevAttrClusterLaunch, device), "cudaDeviceGetAttribute");
  return has_clusters ? 8 : 1;
}

DecodePlan plan_decode(const AttentionArgs& args, bool pipelined, const AttentionScratch& scratch,
                       const LaunchContext& context) {
  const int sequences = args.batch.num_sequences, kv_heads = args.cache.num_kv_heads, pairs = sequences * kv_heads;
  const int head_dim = args.cache.head_dim;
  const int seen = args.sliding_window > 0
                       ? std::min(args.batch.max_context_len, args.sliding_window + args.batch.max_query_len)
                       : args.batch.max_context_len;
  const int pages = (seen + kPageKeys - 1) / kPageKeys;
  DecodePlan plan;
  plan.pipelined = pipelined;
  // Few blocks want many warps each. With more pairs than multiprocessors, two smaller blocks on each hide each other's
  // beginnings and ends.
  const bool crowded = pairs > context.num_sms;
  plan.warps = crowded ? 4 : max_decode_warps(head_dim);
  const int worth = (pages + plan.warps - 1) / plan.warps;  // all warps have a page
  if (pages <= (sequences == 1 ? kClusterPages : kLonePages)) {
    const int wanted = std::min({context.num_sms / pairs, worth, context.max_cluster});
    while (plan.cluster * 2 <= wanted) plan.cluster *= 2;
    plan.splits = plan.cluster;
  }
  if (plan.cluster == 1 && (sequences == 1 || pages > kLonePages))
    plan.splits =
        std::clamp((crowded ? 2 : 1) * context.num_sms / kv_heads, 1, std::min(kMaxSplits, worth * sequences));
  while (plan.splits > plan.cluster && decode_partial_floats(plan, kv_heads, head_dim) > scratch.partial_floats)
    --plan.splits;

  if (!pipelined) return plan;
  // Of a sequence that is split, or has a block to itself.
  const int blocks_each = plan.cluster > 1 || sequences == 1 ? plan.splits : 1;
  const int pages_each = (pages + blocks_each - 1) / blocks_each;
  const int most = std::min(context.max_shared_bytes, sequences == 1 ? kSharedBytesBesideGemv
                                                      : crowded      ? kSharedBytesOfTwo
                                                                     : kSharedBytes);
  // As many pages in flight as there is room for, and of that as many warps.
  const auto stages_of = [&](int warps) {
    const auto shared_bytes = [&](int stages) {
      const int rows = row_tiles_of(args) * 8;
      return decode_shared(head_dim, warps, stages, rows, args.batch.max_query_len, plan.cluster).total + kStaticShared;
    };
    int stages = std::clamp((pages_each + warps - 1) / warps, 1, kMaxStages);
    while (stages > 1 && shared_bytes(stages) > most) --stages;
    return stages;
  };
  plan.stages = stages_of(plan.warps);
  if (plan.warps == 8 && 4 * stages_of(4) > 8 * plan.stages) plan.warps = 4, plan.stages = stages_of(4);
  return plan;
}

void attention_decode(const AttentionArgs& args, const DecodePlan& plan, const AttentionScratch& scratch,
                      const LaunchContext& context) {
  launch_decode(plan.pipelined ? "attention_decode" : "attention_decode_unpiped", nullptr, args, plan, scratch,
                context);
}
void rope_attention_decode(const QkRopeKvArgs& rope, const AttentionArgs& args, const DecodePlan& plan,
                           const AttentionScratch& scratch, const LaunchContext& context) {
  launch_decode(plan.pipelined ? "rope_attention_decode" : "rope_attention_decode_unpiped", &rope, args, plan, scratch,
                context);
}

}  // namespace imp::cuda
