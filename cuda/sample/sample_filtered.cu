// The whole sampler of SampleArgs: restrictions, bias, penalties, temperature, top-k, top-p, min-p, the draw, and the
// log-probabilities, in the order and with the arithmetic of cpp/sampling. One cluster of eight blocks a row; the row
// stays in the L2 cache, and each pass over it takes about a microsecond.
//
// Nothing is sorted but lists of at most 1024 tokens. Histograms find how far down the order of the filters such a list
// must reach: over logits, linear in the distance from the best, for top-k; over weights, 16 bins an octave, for top-p.
// Where top-p keeps more tokens than a list holds, the same histograms, three levels deep, find the weight at which the
// share is reached and then the weight at which the drawn number lies; ties go by id. Without top-k and top-p the draw
// is a prefix sum in the order of ids. Bytes moved: 4 a value to read and 4 to write in the first pass, 4 in each of
// the two to nine others.
#include <climits>

#include "core/error.h"
#include "device/pdl.cuh"
#include "sample/draw.cuh"
#include "sample/sample_filtered.h"

namespace imp::cuda {
namespace {

__global__ void IMP_ROW_CLUSTER __launch_bounds__(kRowThreads)
    filtered_kernel(SampleArgs args, float* scratch, bool in_shared) {
  extern __shared__ __align__(16) unsigned char shared[];
  const int size = static_cast<int>(args.logits.cols);
  ClusterRow row(*reinterpret_cast<RowMemory*>(shared), size);
  pdl_trigger();
  pdl_wait();
  const int r = blockIdx.y;
  const SampleRow how = args.rows[r];
  const float* raw = static_cast<const float*>(args.logits.data) + how.logits_row * args.logits.row_stride;
  // A block touches its own piece of the values alone: they may lie in its shared memory.
  const int64_t first_of_block = static_cast<int64_t>(row.block) * kRowWarps * ClusterRow::piece_of(size);
  float* values = in_shared ? reinterpret_cast<float*>(shared + sizeof(RowMemory)) - first_of_block
                            : scratch + static_cast<int64_t>(r) * size;
  const uint32_t* allowed = args.allowed + how.mask * ((args.logits.cols + 31) / 32);
  int32_t* counts = how.counts < 0 ? nullptr : args.counts + static_cast<int64_t>(how.counts) * size;
  const float* bias = how.bias < 0 ? nullptr : args.bias + static_cast<int64_t>(how.bias) * size;
  const bool first = row.block == 0 && threadIdx.x == 0;
  if (first && counts && how.leaves >= 0) --counts[how.leaves];
  row.cluster.sync();  // all blocks are there, and see the count

  RowStats stats;
  for (int base = row.begin; base < row.end; base += 32 * kBatch) {
    // All loads of a batch before its stores, which the compiler must take for stores to the same arrays.
    float x[kBatch], added[kBatch];
    int occurs[kBatch];
    const int word = base / 32 + row.lane;
    const uint32_t words = row.lane < kBatch && word * 32 < size ? allowed[word] : 0;
#pragma unroll
    for (int u = 0; u < kBatch; ++u) {
      const int i = base + 32 * u + row.lane;
      x[u] = i < row.end ? raw[i] : -INFINITY;
      added[u] = bias && i < row.end ? bias[i] : 0;
      occurs[u] = counts && i < row.end ? counts[i] : 0;
    }
#pragma unroll
    for (int u = 0; u < kBatch; ++u) {
      const int i = base + 32 * u + row.lane;
      const bool may = (__shfl_sync(~0u, words, u) >> row.lane & 1) != 0;
      if (i >= row.end) continue;
      stats.num_nan += isnan(x[u]);
      stats.num_inf += x[u] == INFINITY;
      stats.num_neg_inf += x[u] == -INFINITY;
      stats.raw_max = fmaxf(stats.raw_max, x[u]);
      float value = may ? x[u] : -INFINITY;
      if (value > -INFINITY && bias) value = __fadd_rn(value, added[u]);
      if (value > -INFINITY && occurs[u] > 0)
        value = penalized(value, occurs[u], how.repetition_penalty, how.frequency_penalty, how.presence_penalty);
      values[i] = value;
      const auto key =
          static_cast<unsigned long long>(ordered_bits(value)) << 32 | (UINT_MAX - static_cast<unsigned>(i));
      if (value > -INFINITY) stats.best = max(stats.best, key);
    }
  }
  stats = row.reduce(stats);

  int id = -1;
  if (stats.best != 0 && stats.num_nan == 0 && stats.num_inf == 0) {
    if (how.temperature == 0) {
      id = static_cast<int>(UINT_MAX - static_cast<unsigned>(stats.best));
    } else {
      const double uniform = counter_uniform(how.seed_low, how.seed_high, how.stream, how.position);
      const float max = from_ordered_bits(static_cast<unsigned>(stats.best >> 32));
      Draw draw{row, how, values, size, max, uniform};
      if (how.top_k > 0 && how.top_k < size)
        id = draw.from_logits();
      else
        id = how.top_p < 1 ? draw.from_weights() : draw.from_ids();
    }
  }
  const bool drawn = stats.best != 0 && stats.num_nan == 0 && stats.num_inf == 0;
  if (drawn && how.logprobs >= 0) describe(row, how, raw, stats.raw_max, id, args.results[how.result]);
  if (!first) return;
  args.ids[r] = id < 0 ? 0 : id;
  if (id >= 0 && counts) ++counts[id];
  SampleResult& result = args.results[how.result];
  result.id = id;
  result.num_nan = stats.num_nan;
  result.num_inf = stats.num_inf;
  result.num_neg_inf = stats.num_neg_inf;
}

}  // namespace

void sample_filtered(const SampleArgs& args, float* scratch, const LaunchContext& context) {
  if (args.num_rows == 0) return;
  const size_t own_bytes = sizeof(float) * kRowWarps * ClusterRow::piece_of(static_cast<int>(args.logits.cols));
  // With few rows an SM has one block, and shared memory to spare.
  const bool in_shared = sizeof(RowMemory) + own_bytes <= static_cast<size_t>(context.max_shared_bytes) &&
                         args.num_rows * kClusterBlocks <= context.num_sms;
  launch(context, "sample_filtered", filtered_kernel, dim3(kClusterBlocks, static_cast<unsigned>(args.num_rows)),
         kRowThreads, sizeof(RowMemory) + (in_shared ? own_bytes : 0), args, scratch, in_shared);
}

}  // namespace imp::cuda
