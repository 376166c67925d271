// id[r] = the lowest index of the largest allowed logit of row r; counts of what is not finite.
//
// Many blocks share a row, each a contiguous piece of it: the row lies in the L2 cache, which feeds one SM far too
// slowly for 150 000 values. The block that comes last to a row reduces what the others left. A value and its index are
// compared as one 64-bit number: the value's bits made monotone above, the complement of the index below. Results go to
// pinned host memory without a copy. Bytes moved: 4 a value, and the bits of `allowed` once a row.
#include <climits>
#include <cstdint>

#include "device/pdl.cuh"
#include "sample/sample_greedy.h"

namespace imp::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

/// Larger floats have larger bits; 0 is below every number's.
__device__ unsigned ordered_bits(float x) {
  const unsigned bits = __float_as_uint(x == 0 ? 0.0f : x);  // -0 equals 0
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

struct Found {
  unsigned long long best = 0;  // 0: nothing
  int num_nan = 0, num_inf = 0, num_neg_inf = 0;

  __device__ void add(const Found& other) {
    best = max(best, other.best);
    num_nan += other.num_nan;
    num_inf += other.num_inf;
    num_neg_inf += other.num_neg_inf;
  }
};

/// Of all threads; valid in thread 0.
__device__ Found block_total(Found found) {
  __shared__ Found warps[kWarps];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    Found other;
    other.best = __shfl_xor_sync(~0u, found.best, offset);
    other.num_nan = __shfl_xor_sync(~0u, found.num_nan, offset);
    other.num_inf = __shfl_xor_sync(~0u, found.num_inf, offset);
    other.num_neg_inf = __shfl_xor_sync(~0u, found.num_neg_inf, offset);
    found.add(other);
  }
  __syncthreads();  // the array may still be read from a call before
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = found;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int warp = 1; warp < kWarps; ++warp) found.add(warps[warp]);
  return found;
}

__global__ __launch_bounds__(kThreads) void greedy_kernel(SampleArgs args, GreedyScratch scratch, int piece) {
  pdl_trigger();
  pdl_wait();
  const int r = blockIdx.y;
  const SampleRow how = args.rows[r];
  const float* row = static_cast<const float*>(args.logits.data) + how.logits_row * args.logits.row_stride;
  const int begin = blockIdx.x * piece, end = min(begin + piece, static_cast<int>(args.logits.cols));
  Found found;
#pragma unroll 4
  for (int i = begin + threadIdx.x; i < end; i += kThreads) {
    const float x = row[i];
    const bool allowed = !args.allowed || (args.allowed[i / 32] >> (i % 32) & 1) != 0;
    found.num_nan += isnan(x);
    found.num_inf += x == INFINITY;
    found.num_neg_inf += x == -INFINITY;
    const auto key = static_cast<unsigned long long>(ordered_bits(x)) << 32 | (UINT_MAX - static_cast<unsigned>(i));
    if (allowed && x > -INFINITY) found.best = max(found.best, key);
  }
  found = block_total(found);

  __shared__ bool is_last;
  GreedyPartial* partial = scratch.partial + r * kMaxGreedyBlocks;
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = {found.best, found.num_nan, found.num_inf, found.num_neg_inf};
    __threadfence();
    is_last = atomicInc(scratch.arrived + r, gridDim.x - 1) == gridDim.x - 1;  // which sets it back to zero
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  found = {};
  for (unsigned b = threadIdx.x; b < gridDim.x; b += kThreads) {
    const volatile GreedyPartial& from = partial[b];
    Found other;
    other.best = from.best;
    other.num_nan = from.num_nan;
    other.num_inf = from.num_inf;
    other.num_neg_inf = from.num_neg_inf;
    found.add(other);
  }
  found = block_total(found);
  if (threadIdx.x != 0) return;
  const bool drawn = found.best != 0 && found.num_nan == 0 && found.num_inf == 0;
  const int id = drawn ? static_cast<int>(UINT_MAX - static_cast<unsigned>(found.best)) : -1;
  args.ids[r] = max(id, 0);
  SampleResult& result = args.results[how.result];
  result.id = id;
  result.num_nan = found.num_nan;
  result.num_inf = found.num_inf;
  result.num_neg_inf = found.num_neg_inf;
}

}  // namespace

void sample_greedy(const SampleArgs& args, const GreedyScratch& scratch, const LaunchContext& context) {
  if (args.num_rows == 0) return;
  constexpr int kLeastValues = 1024;  // a block's worth
  const int vocab_size = static_cast<int>(args.logits.cols);
  int blocks = 8 * context.num_sms / args.num_rows;  // 2048 threads an SM
  blocks = min(min(blocks, kMaxGreedyBlocks), (vocab_size + kLeastValues - 1) / kLeastValues);
  blocks = max(blocks, 1);
  const int piece = (vocab_size + blocks - 1) / blocks;
  launch(context, "sample_greedy", greedy_kernel,
         dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(args.num_rows)), kThreads, 0, args, scratch, piece);
}

}  // namespace imp::cuda
