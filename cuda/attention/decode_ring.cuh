#pragma once
#include "attention/attention_params.cuh"
#include "attention/decode_params.h"
#include "device/cp_async.cuh"

namespace imp::cuda {

// A page: 16 keys of one kv head, K then V, f16; in shared memory rows are padded by 16 bytes so that ldmatrix meets no
// bank twice.

template <int kHeadDim>
constexpr int kPageRow = kHeadDim + 8;

/// A warp's own ring of the pages [begin, end): `p.stages` of them are held or on the way.
template <int kHeadDim>
class PageRing {
 public:
  __device__ __forceinline__ PageRing(const DecodeParams& params, const SequenceSpan& of, int head, int begin_page,
                                      int end_page, int keys_in_cache, __half* memory)
      : p(params),
        span(of),
        kv_head(head),
        begin(begin_page),
        end(end_page),
        in_cache(keys_in_cache),
        slots(memory),
        next_page(begin_page) {
    place = places(begin), place_ahead = places(begin + 32);
    for (int s = 0; s < p.stages; ++s) copy_next();
  }

  /// The oldest page, once it is there for all lanes.
  __device__ __forceinline__ __half* wait() {
    cp_async_wait(p.stages - 1);
    __syncwarp();
    return slots + slot * page_halves(kHeadDim);
  }
  /// After what wait() gave was used.
  __device__ __forceinline__ void release() {
    __syncwarp();
    copy_next();
    slot = slot + 1 == p.stages ? 0 : slot + 1;
  }

 private:
  /// The pages' places, 32 at a time in the lanes, and 32 ahead.
  __device__ __forceinline__ int places(int page) const {
    const int lane = threadIdx.x % 32;
    return page + lane < end ? span.block_table[page + lane] : 0;
  }
  /// Rows from the first that is not in the cache on become zeros, so that no stale NaN meets a zero probability.
  __device__ __forceinline__ void copy_next() {
    if (next_page < end) {
      const int i = (next_page - begin) % 32;
      if (i == 0 && next_page > begin) place = place_ahead, place_ahead = places(next_page + 32);
      const int64_t block = __shfl_sync(~0u, place, i);
      const int64_t offset = (block * p.num_kv_heads + kv_head) * (kPageKeys * kHeadDim);
      copy_page(p.k_cache + offset, p.v_cache + offset, in_cache - next_page * kPageKeys);
    }
    cp_async_commit();
    ++next_page;
    next_slot = next_slot + 1 == p.stages ? 0 : next_slot + 1;
  }
  __device__ __forceinline__ void copy_page(const __half* k, const __half* v, int valid_keys) const {
    constexpr int kChunks = kHeadDim / 8;  // of 16 bytes, a row
    __half* to = slots + next_slot * page_halves(kHeadDim);
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < kPageKeys * kChunks / 32; ++j) {
      const int i = lane + 32 * j, row = i / kChunks, at = row * kPageRow<kHeadDim> + i % kChunks * 8;
      const bool valid = row < valid_keys;
      cp_async_16(to + at, valid ? k + i * 8 : k, valid);
      cp_async_16(to + at + kPageKeys * kPageRow<kHeadDim>, valid ? v + i * 8 : v, valid);
    }
  }

  const DecodeParams& p;
  const SequenceSpan& span;
  int kv_head, begin, end, in_cache;
  __half* slots;
  int place, place_ahead;
  int next_page, next_slot = 0, slot = 0;
};

}  // namespace imp::cuda
