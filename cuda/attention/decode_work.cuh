#pragma once
#include "attention/decode_params.h"

namespace imp::cuda {

/// Pages of a sequence that its new tokens see.
struct SeenPages {
  int first, count;
};
__device__ __forceinline__ SeenPages seen_pages(const DecodeParams& p, int num_tokens, int context) {
  if (num_tokens == 0) return {0, 0};
  const int lowest = p.window == 0 ? 0 : max(0, context - num_tokens - p.window + 1);
  return {lowest / kPageKeys, (context + kPageKeys - 1) / kPageKeys - lowest / kPageKeys};
}

/// What a block of a kv head does: split `split` of `splits` of a sequence; first_part: of the sequence's parts among
/// those of all sequences that are split.
struct DecodeWork {
  int sequence, split, splits, first_part;
  __device__ __forceinline__ bool none() const { return splits == 0; }
};

/// How the blocks of a kv head are shared out. Lengths are on the device alone, so every warp finds out for itself, the
/// same. A sequence that would get less than two of the `p.splits` blocks that the batch is worth has one; the others
/// share what remains, by their pages. Blocks of split sequences come first: they have most to do.
template <int kWarps>
class DecodeShares {
 public:
  __device__ __forceinline__ explicit DecodeShares(const DecodeParams& params) : p(params) {}

  __device__ __forceinline__ DecodeWork find(int block) {
    if (p.splits == 1 && block < p.num_sequences) return {block, 0, pages(block) > 0, 0};
    if (p.num_sequences == 1) {
      const int splits = min(worth(pages(0)), p.splits);
      return {0, block, block < splits ? splits : 0, 0};
    }
    const int lane = threadIdx.x % 32;
    total = sum([&](int s) { return pages(s); });
    const int singles = sum([&](int s) { return pages(s) > 0 && is_short(pages(s)); });
    rest = sum([&](int s) { return is_short(pages(s)) ? 0 : pages(s); });
    rest_splits = max(p.splits - singles, p.splits / 4 * 3);
    const int parts = sum([&](int s) { return of_split(s); });
    const bool is_part = block < parts;
    const int wanted = is_part ? block : block - parts;
    int before = 0;
    for (int first = 0; first < p.num_sequences; first += 32) {
      const int splits = first + lane < p.num_sequences ? splits_of(pages(first + lane)) : 0;
      const int own = is_part == (splits > 1) ? splits : 0;
      int end = before + own;
#pragma unroll
      for (int offset = 1; offset < 32; offset *= 2) {
        const int left = __shfl_up_sync(~0u, end - before, offset);
        if (lane >= offset) end += left;
      }
      const unsigned here = __ballot_sync(~0u, own > 0 && wanted < end);
      if (here) {
        const int at = __ffs(static_cast<int>(here)) - 1;
        const int begin = __shfl_sync(~0u, end - own, at);
        return {first + at, wanted - begin, __shfl_sync(~0u, splits, at), begin};
      }
      before = __shfl_sync(~0u, end, 31);
    }
    return {0, 0, 0, 0};
  }

 private:
  __device__ __forceinline__ int pages(int sequence) const {
    const int num_tokens = p.query_start[sequence + 1] - p.query_start[sequence];
    return seen_pages(p, num_tokens, p.context_len[sequence]).count;
  }
  /// Blocks that so many pages keep busy.
  __device__ __forceinline__ int worth(int pages) const {
    return (pages + kWarps * p.min_pages - 1) / (kWarps * p.min_pages);
  }
  __device__ __forceinline__ bool is_short(int pages) const {
    return static_cast<unsigned>(pages) * p.splits < 2u * static_cast<unsigned>(total);
  }
  __device__ __forceinline__ int splits_of(int pages) const {
    if (pages == 0 || is_short(pages)) return pages > 0;
    const auto share = static_cast<unsigned>(pages) * rest_splits / static_cast<unsigned>(rest);
    return max(min(static_cast<int>(share), worth(pages)), 1);
  }
  __device__ __forceinline__ int of_split(int sequence) const {
    const int splits = splits_of(pages(sequence));
    return splits > 1 ? splits : 0;
  }
  template <class Value>
  __device__ __forceinline__ int sum(const Value& value) const {
    int sum = 0;
    for (int first = 0; first < p.num_sequences; first += 32) {
      const int sequence = first + static_cast<int>(threadIdx.x % 32);
      sum += __reduce_add_sync(~0u, sequence < p.num_sequences ? static_cast<int>(value(sequence)) : 0);
    }
    return sum;
  }

  const DecodeParams& p;
  int total = 0, rest = 0, rest_splits = 0;
};

}  // namespace imp::cuda
