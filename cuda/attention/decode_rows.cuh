#pragma once
#include "attention/attention_params.cuh"
#include "attention/decode_params.h"
#include "rope/rope_row.cuh"

namespace imp::cuda {

/// Brings the rows of a block into shared memory as f16: all query rows of its kv head, scaled, and, where the kernel
/// is fused, the keys and values of the new tokens [first_new, end_new) of the sequence, which also go to the cache.
/// A warp takes every kWarps-th row, two at a time, so that the loads of both are under way together. What can be known
/// of the first two before they are there is found out by prepare().
template <int kHeadDim, int kWarps>
class DecodeRows {
 public:
  __device__ __forceinline__ DecodeRows(const DecodeParams& params, const SequenceSpan& of, int kv_head_index, int rows,
                                        int first_new_token, int end_new_token, const float2* angle_table,
                                        __half* q_rows, __half* k_rows, __half* v_rows)
      : p(params),
        span(of),
        kv_head(kv_head_index),
        num_rows(rows),
        first_new(first_new_token),
        end_new(end_new_token),
        angles(angle_table),
        q(q_rows),
        new_k(k_rows),
        new_v(v_rows) {}

  /// Touches weights and the block table alone.
  __device__ __forceinline__ void prepare() {
    if (p.fused && p.q_norm) q_norm.load(p.q_norm, kHeadDim, p.rotary_dim, p.interleaved);
    if (p.fused && p.k_norm) k_norm.load(p.k_norm, kHeadDim, p.rotary_dim, p.interleaved);
    first = item(threadIdx.x / 32);
    second = item(threadIdx.x / 32 + kWarps);
  }
  __device__ __forceinline__ void run() {
    for (int i = threadIdx.x / 32; i < count(); i += 2 * kWarps) {
      Row a, b;
      if (first.source) a.load(first.source, kHeadDim, p.rotary_dim, p.interleaved);
      if (second.source) b.load(second.source, kHeadDim, p.rotary_dim, p.interleaved);
      if (first.source) finish(first, a);
      if (second.source) finish(second, b);
      if (i + 2 * kWarps >= count()) break;
      first = item(i + 2 * kWarps);
      second = item(i + 3 * kWarps);
    }
  }

 private:
  static constexpr int kPairs = (kHeadDim / 2 + 31) / 32;
  static constexpr int kStride = kHeadDim + 8;
  using Row = RopeRow<kPairs>;
  enum class Kind { q, k, v };
  struct Item {
    const float* source = nullptr;  // null: past the last one
    __half *to, *cached;
    const float2* angles;
    Kind kind;
  };

  __device__ __forceinline__ int count() const { return num_rows + 2 * (end_new - first_new); }
  /// Rows of q, then k and v of each new token.
  __device__ __forceinline__ Item item(int i) const {
    if (i >= count()) return {};
    if (i < num_rows) {
      const int token = span.num_tokens == 1 ? 0 : i / p.group, head = kv_head * p.group + i - token * p.group;
      return {p.q + (span.first_token + token) * p.q_stride + head * kHeadDim, q + i * kStride, nullptr,
              angles + token * (kHeadDim / 2), Kind::q};
    }
    const int token = first_new + (i - num_rows) / 2, position = span.first_position + token;
    const int64_t page = span.block_table[position / kPageKeys];
    const int64_t at = ((page * p.num_kv_heads + kv_head) * kPageKeys + position % kPageKeys) * kHeadDim;
    if ((i - num_rows) % 2 == 0)
      return {p.k + (span.first_token + token) * p.k_stride + kv_head * kHeadDim, new_k + token * kStride,
              p.k_cache + at, angles + token * (kHeadDim / 2), Kind::k};
    return {p.v + (span.first_token + token) * p.v_stride + kv_head * kHeadDim, new_v + token * kStride, p.v_cache + at,
            nullptr, Kind::v};
  }
  __device__ __forceinline__ void finish(const Item& item, Row& row) const {
    const int lane = threadIdx.x % 32;
    if (p.fused) {
      if (item.kind == Kind::q && p.q_norm) row.norm(q_norm, kHeadDim, p.epsilon);
      if (item.kind == Kind::k && p.k_norm) row.norm(k_norm, kHeadDim, p.epsilon);
    }
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int pair = lane + 32 * j;
      if (kHeadDim % 64 != 0 && pair >= kHeadDim / 2) continue;
      if (p.fused && item.kind != Kind::v) row.rotate(j, item.angles[pair]);
      const float gain = item.kind == Kind::q ? p.scale : 1;
      const __half x = __float2half(row.x[j] * gain), y = __float2half(row.y[j] * gain);
      const int2 dims = rope_pair(pair, p.rotary_dim, p.interleaved);
      item.to[dims.x] = x, item.to[dims.y] = y;
      if (item.cached) item.cached[dims.x] = x, item.cached[dims.y] = y;
    }
  }

  const DecodeParams& p;
  const SequenceSpan& span;
  int kv_head, num_rows, first_new, end_new;
  const float2* angles;  // [tokens][kHeadDim / 2]
  __half *q, *new_k, *new_v;
  Row q_norm, k_norm;
  Item first, second;
};

}  // namespace imp::cuda
