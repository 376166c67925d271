#pragma once
#include <cuda_fp16.h>

#include <cstdint>

namespace imp::cuda {

/// Tokens of a block of the KV cache ("page" here, to tell it from a block of threads).
inline constexpr int kPageKeys = 16;
/// Warps of a block: 4, or, where the pages of so many fit into shared memory, 8.
constexpr int max_decode_warps(int head_dim) { return head_dim > 128 ? 4 : 8; }

/// What decode attention is launched with; attention_decode.cuh has the formula.
struct DecodeParams {
  const float *q, *k, *v;                            // k and v where fused
  int64_t q_stride, k_stride, v_stride, out_stride;  // elements a token
  void* out;
  bool out_bf16;
  bool fused;  // q and k still need their norm and rotation, and k and v their place in the cache
  const float *q_norm, *k_norm;
  float epsilon;
  bool interleaved;
  int rotary_dim;
  const float* inv_freq;
  float magnitude;
  __half *k_cache, *v_cache;
  int num_kv_heads, group;
  float scale, softcap;
  int window;
  const int32_t *query_start, *context_len, *block_tables;
  int block_table_stride;
  int num_sequences;
  int max_tokens;  // of a sequence
  int splits;      // blocks a kv head, beside those of short sequences; or those of a cluster
  int cluster;     // blocks of a cluster
  int stages;      // pages a warp holds
  int min_pages;   // that a warp should have before another split is worth while
  float* partial;
  int32_t* counters;
};

/// Where things lie in a block's shared memory, in bytes.
struct DecodeShared {
  int q, new_k, new_v, angles, received, total;
};
__host__ __device__ constexpr int page_halves(int head_dim) { return 2 * kPageKeys * (head_dim + 8); }
/// Floats that a block leaves in memory for the one that adds up: rows of output, then (max, sum) of each.
__host__ __device__ constexpr int64_t decode_part_floats(int rows, int head_dim) { return rows * (head_dim + 2); }
/// Floats that a block of a cluster answers for when `rows` rows are shared out in pieces of 32.
__host__ __device__ constexpr int slice_floats(int rows, int head_dim, int blocks) {
  return ((rows * head_dim + 31) / 32 + blocks - 1) / blocks * 32;
}
__host__ __device__ constexpr DecodeShared decode_shared(int head_dim, int warps, int stages, int padded_rows,
                                                         int tokens, int cluster) {
  const int row = (head_dim + 8) * 2;
  DecodeShared at = {};
  at.q = warps * stages * page_halves(head_dim) * 2;
  at.new_k = at.q + padded_rows * row;
  at.new_v = at.new_k + tokens * row;
  at.angles = at.new_v + tokens * row;
  at.received = at.angles + tokens * head_dim / 2 * 8;
  // A cluster's parts of one slice, and everyone's maxima and sums.
  at.total = at.received;
  if (cluster > 1) at.total += (padded_rows * head_dim + 32 * cluster) * 4 + cluster * padded_rows * 8;
  return at;
}

}  // namespace imp::cuda
