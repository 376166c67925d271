#include "cpu/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "cpu/kernels.h"
#include "reference/reference.h"

namespace imp::cpu {
namespace {

constexpr int kMaxSplits = 128;     // of one sequence's keys
constexpr int kMinSplitKeys = 128;  // fewer do not pay for joining the parts
constexpr double kMinParallelFlops = 1 << 18;

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

/// Floats at the start of the scratch memory for all, then as many for each worker as it needs.
struct Scratch {
  float* shared;
  float* of_workers;
  int64_t per_worker;
  float* of(int worker) const { return of_workers + worker * per_worker; }
};

Scratch carve(const CpuContext& context, int64_t shared, int64_t per_worker) {
  shared = round_up(shared, 16);
  per_worker = round_up(per_worker, 16);
  const uint64_t bytes = sizeof(float) * (shared + per_worker * context.pool.num_threads());
  if (bytes > context.scratch.size())
    fail(ErrorCode::unsupported, "attention over this batch needs ", bytes >> 20,
         " MiB of workspace, and the CPU backend has ", context.scratch.size() >> 20, "; use smaller batches");
  auto* at = reinterpret_cast<float*>(context.scratch.data());
  return {at, at + shared, per_worker};
}

int first_key(const AttentionArgs& args, int position) {
  return args.sliding_window > 0 ? std::max(0, position - args.sliding_window + 1) : 0;
}

// ---- one new token a sequence: the keys are split, the parts joined in order ----

/// How the keys of each sequence are split. A function of the sequence alone, so that results do not depend on who else
/// is in the batch.
struct SplitPlan {
  int begin, end;  // visible keys
  int keys;        // of a split but the last
  int count;
};

SplitPlan plan_split(const AttentionArgs& args, int sequence) {
  const int position = args.batch.positions[args.batch.query_start[sequence]];
  const int begin = first_key(args, position), end = position + 1;
  const int keys = static_cast<int>(round_up(std::max(kMinSplitKeys, (end - begin + kMaxSplits - 1) / kMaxSplits), 16));
  return {begin, end, keys, (end - begin + keys - 1) / keys};
}

template <class V>
class SplitRun {
 public:
  SplitRun(const CpuContext& context, const AttentionArgs& args)
      : context_(context),
        args_(args),
        group_(args.num_heads / args.cache.num_kv_heads),
        partial_row_(kAttentionPartialHead + args.cache.head_dim) {
    int most_keys = 0;
    for (int s = 0; s < args.batch.num_sequences; ++s) {
      if (empty(s)) continue;
      const SplitPlan plan = plan_split(args, s);
      most_keys = std::max(most_keys, plan.keys);
      most_splits_ = std::max(most_splits_, plan.count);
      flops_ += 4.0 * args.num_heads * args.cache.head_dim * (plan.end - plan.begin);
    }
    const int64_t partials = most_splits_ > 1 ? partial(args.batch.num_sequences, 0, 0, 0) : 0;
    scratch_ = carve(context, partials, attention_split_workspace(args.cache.head_dim, most_keys));
  }

  void run() {
    const int items = args_.batch.num_sequences * args_.cache.num_kv_heads * most_splits_;
    if (flops_ < kMinParallelFlops || context_.pool.num_threads() == 1) {
      for (int i = 0; i < items; ++i) attend(i, scratch_.of(0));
      if (most_splits_ > 1) join_rows({0, int64_t{args_.batch.num_sequences} * args_.num_heads});
      return;
    }
    std::atomic<int> next = 0;
    context_.pool.run([this, &next](int worker) { work(worker, next); });
  }

 private:
  bool empty(int sequence) const { return args_.batch.query_start[sequence] == args_.batch.query_start[sequence + 1]; }

  int64_t partial(int64_t sequence, int64_t kv_head, int64_t split, int64_t head) const {
    return (((sequence * args_.cache.num_kv_heads + kv_head) * most_splits_ + split) * group_ + head) * partial_row_;
  }

  void work(int worker, std::atomic<int>& next) {
    const int items = args_.batch.num_sequences * args_.cache.num_kv_heads * most_splits_;
    for (int i = next++; i < items; i = next++) attend(i, scratch_.of(worker));
    if (most_splits_ == 1) return;
    context_.pool.barrier();
    join_rows(share_of(int64_t{args_.batch.num_sequences} * args_.num_heads, worker, context_.pool.num_threads()));
  }

  void attend(int item, float* workspace) const {
    const int split = item % most_splits_, row = item / most_splits_;
    const int kv_head = row % args_.cache.num_kv_heads, sequence = row / args_.cache.num_kv_heads;
    if (empty(sequence)) return;
    const SplitPlan plan = plan_split(args_, sequence);
    if (split >= plan.count) return;
    const int begin = plan.begin + split * plan.keys;
    attention_split<V>(args_,
                       {.sequence = sequence,
                        .kv_head = kv_head,
                        .key_begin = begin,
                        .key_end = std::min(begin + plan.keys, plan.end),
                        .partial = plan.count > 1 ? scratch_.shared + partial(sequence, kv_head, split, 0) : nullptr},
                       workspace);
  }

  /// Joins the parts of query heads; row = sequence * num_heads + head.
  void join_rows(Range rows) const {
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const int sequence = static_cast<int>(row / args_.num_heads), head = static_cast<int>(row % args_.num_heads);
      if (empty(sequence)) continue;
      const int count = plan_split(args_, sequence).count;
      if (count > 1) join(sequence, head, count);
    }
  }

  void join(int sequence, int head, int count) const {
    const int hd = args_.cache.head_dim;
    float* out = args_.out.row<float>(args_.batch.query_start[sequence]) + head * hd;
    const auto part = [&](int split) {
      return scratch_.shared + partial(sequence, head / group_, split, head % group_);
    };
    float highest = part(0)[0];
    for (int i = 1; i < count; ++i) highest = std::max(highest, part(i)[0]);
    float sum = 0;
    std::fill(out, out + hd, 0.0f);
    for (int i = 0; i < count; ++i) {
      const float weight = std::exp(part(i)[0] - highest);
      const float* mean = part(i) + kAttentionPartialHead;
      sum += weight * part(i)[1];
      for (int d = 0; d < hd; ++d) out[d] += weight * mean[d];
    }
    for (int d = 0; d < hd; ++d) out[d] /= sum;
  }

  const CpuContext& context_;
  const AttentionArgs& args_;
  const int group_;
  const int64_t partial_row_;  // floats
  int most_splits_ = 1;
  double flops_ = 0;
  Scratch scratch_ = {};
};

template <class V>
void run_split(const CpuContext& context, const AttentionArgs& args) {
  SplitRun<V>(context, args).run();
}

// ---- any number of new tokens: tiles of queries ----

/// Tiles of all sequences, numbered so that the longest (the last tokens of a sequence) come first.
template <class V>
class TileRun {
 public:
  TileRun(const CpuContext& context, const AttentionArgs& args)
      : context_(context),
        args_(args),
        tile_tokens_(std::max(1, kAttentionTileRows / (args.num_heads / args.cache.num_kv_heads))),
        scratch_(carve(context, 0, attention_tile_workspace(args.cache.head_dim))) {}

  void run() {
    int tiles = 0;
    double flops = 0;
    for (int s = 0; s < args_.batch.num_sequences; ++s) {
      tiles += tiles_of(s);
      flops += 4.0 * tokens_of(s) * args_.num_heads * args_.cache.head_dim * args_.batch.context_len[s];
    }
    const int items = tiles * args_.cache.num_kv_heads;
    if (items <= 1 || flops < kMinParallelFlops || context_.pool.num_threads() == 1) {
      for (int i = 0; i < items; ++i) attend(i, scratch_.of(0));
      return;
    }
    std::atomic<int> next = 0;
    context_.pool.run([this, &next, items](int worker) {
      for (int i = next++; i < items; i = next++) attend(i, scratch_.of(worker));
    });
  }

 private:
  int tokens_of(int sequence) const {
    return args_.batch.query_start[sequence + 1] - args_.batch.query_start[sequence];
  }
  int tiles_of(int sequence) const { return (tokens_of(sequence) + tile_tokens_ - 1) / tile_tokens_; }

  void attend(int item, float* workspace) const {
    const int kv_head = item % args_.cache.num_kv_heads;
    int tile = item / args_.cache.num_kv_heads, sequence = 0;
    for (; tile >= tiles_of(sequence); ++sequence) tile -= tiles_of(sequence);
    tile = tiles_of(sequence) - 1 - tile;
    const int begin = args_.batch.query_start[sequence] + tile * tile_tokens_;
    const int end = std::min(begin + tile_tokens_, args_.batch.query_start[sequence + 1]);
    attention_tile<V>(args_, {sequence, kv_head, begin, end}, workspace);
  }

  const CpuContext& context_;
  const AttentionArgs& args_;
  const int tile_tokens_;
  const Scratch scratch_;
};

template <class V>
void run_tiles(const CpuContext& context, const AttentionArgs& args) {
  TileRun<V>(context, args).run();
}

void plain(const CpuContext&, const AttentionArgs& args) { reference::attention(args); }

// ---- the table ----

template <Isa Needed>
const char* reject_tiles(const AttentionProblem& problem) {
  if (problem.isa < Needed) return Needed == Isa::avx512 ? "needs AVX-512" : "needs AVX2";
  if (problem.block_size % 16 != 0) return "block_size is not a multiple of 16";
  if (problem.query.head_dim % 8 != 0) return "head_dim is not a multiple of 8";
  if (problem.query.head_dim > kAttentionMaxHeadDim) return "head_dim is above 512";
  if (problem.query.num_heads / problem.query.num_kv_heads > kAttentionMaxGroup)
    return "more than 48 query heads a kv head";
  return nullptr;
}

template <Isa Needed>
const char* reject_split(const AttentionProblem& problem) {
  if (problem.query.max_query_len > 1) return "a sequence has more than one new token";
  return reject_tiles<Needed>(problem);
}

constexpr AttentionTable::Entry kCandidates[] = {
#if defined(__x86_64__)
    {"attention_split_avx512", reject_split<Isa::avx512>, run_split<Avx512>},
    {"attention_tile_avx512", reject_tiles<Isa::avx512>, run_tiles<Avx512>},
    {"attention_split_avx2", reject_split<Isa::avx2>, run_split<Avx2>},
    {"attention_tile_avx2", reject_tiles<Isa::avx2>, run_tiles<Avx2>},
#endif
    {"attention_reference", [](const AttentionProblem&) -> const char* { return nullptr; }, plain},
};
constexpr AttentionTable kTable{"attention", kCandidates};

AttentionProblem problem_of(const CpuContext& context, const AttentionArgs& args) {
  return {context.isa,
          args.cache.block_size,
          {.tokens = args.q.rows,
           .max_query_len = args.batch.max_query_len,
           .max_context_len = args.batch.max_context_len,
           .num_heads = args.num_heads,
           .num_kv_heads = args.cache.num_kv_heads,
           .head_dim = args.cache.head_dim,
           .sliding_window = args.sliding_window}};
}

}  // namespace

// The layouts are those of TileWorkspace and attention_split().
int64_t attention_tile_workspace(int head_dim) {
  const int64_t padded = round_up(head_dim, 16);
  return 2 * kAttentionTileRows * padded + 2 * kAttentionTileKeys * padded + kAttentionTileRows * kAttentionTileKeys +
         3 * kAttentionTileRows;
}

int64_t attention_split_workspace(int head_dim, int num_keys) {
  return kAttentionMaxDotRows * (2 * round_up(head_dim, 16) + round_up(num_keys, 16) + 16);
}

const AttentionTable& attention_table() { return kTable; }

std::string_view run_attention(const CpuContext& context, const AttentionArgs& args) {
  const auto& kernel = kTable.select(problem_of(context, args));
  if (args.q.rows > 0) kernel.launch(context, args);
  return kernel.name;
}

}  // namespace imp::cpu
