#pragma once
// What every attention kernel is given.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "ops/args.h"

namespace imp::cuda {

struct AttentionParams {
  const float* q;
  float* out;  // one of the two is set
  __nv_bfloat16* out_bf16;
  int64_t q_stride, out_stride;  // elements a token
  const __half *k, *v;
  int num_kv_heads, group, block_size;
  float scale, softcap;
  int window;
  int block_table_stride;
  const int32_t *query_start, *context_len, *block_tables;
};

inline AttentionParams make_params(const AttentionArgs& args) {
  return {args.q.row<float>(0),
          args.out.dtype == DType::bf16 ? nullptr : static_cast<float*>(args.out.data),
          args.out.dtype == DType::bf16 ? static_cast<__nv_bfloat16*>(args.out.data) : nullptr,
          args.q.row_stride,
          args.out.row_stride,
          static_cast<const __half*>(args.cache.k),
          static_cast<const __half*>(args.cache.v),
          args.cache.num_kv_heads,
          args.num_heads / args.cache.num_kv_heads,
          args.cache.block_size,
          args.scale,
          args.softcap,
          args.sliding_window,
          args.batch.block_table_stride,
          args.batch.query_start,
          args.batch.context_len,
          args.batch.block_tables};
}

/// The sequence a block works for.
struct SequenceSpan {
  int first_token;  // its first row of the batch
  int num_tokens;
  int first_position;
  const int32_t* block_table;
};
__device__ __forceinline__ SequenceSpan sequence_span(const AttentionParams& p, int sequence) {
  const int first = p.query_start[sequence], count = p.query_start[sequence + 1] - first;
  return {first, count, p.context_len[sequence] - count, p.block_tables + sequence * p.block_table_stride};
}

/// Two neighbours of the output, `at` even.
__device__ __forceinline__ void store_pair(const AttentionParams& p, int64_t at, float first, float second) {
  if (p.out_bf16)
    *reinterpret_cast<__nv_bfloat162*>(p.out_bf16 + at) = __floats2bfloat162_rn(first, second);
  else
    *reinterpret_cast<float2*>(p.out + at) = make_float2(first, second);
}
__device__ __forceinline__ void store_one(const AttentionParams& p, int64_t at, float value) {
  if (p.out_bf16)
    p.out_bf16[at] = __float2bfloat16_rn(value);
  else
    p.out[at] = value;
}

}  // namespace imp::cuda
