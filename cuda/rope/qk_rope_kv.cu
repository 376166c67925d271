#include <cuda_fp16.h>

#include "core/error.h"
#include "device/pdl.cuh"
#include "rope/qk_rope_kv.h"
#include "rope/qk_rope_kv_prefill.h"
#include "rope/rope_row.cuh"

namespace imp::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kMaxPairs = 8;  // of a lane: head_dim up to 512

struct Params {
  float *q, *k, *v;
  int64_t q_stride, k_stride, v_stride;
  const float *q_norm, *k_norm;
  float epsilon;
  bool interleaved;
  int rotary_dim;
  const float* inv_freq;
  float magnitude;
  __half *k_cache, *v_cache;
  int num_heads, num_kv_heads, head_dim, block_size;
  int num_sequences, block_table_stride;
  const int32_t *query_start, *block_tables, *positions;
};

__device__ int sequence_of(const Params& p, int token) {
  int s = 0;
  while (s + 1 < p.num_sequences && token >= p.query_start[s + 1]) ++s;
  return s;
}

// Heads of a token: q heads, then k heads, then v heads.
template <int kPairs>
__global__ __launch_bounds__(kWarps * 32) void qk_rope_kv_kernel(Params p) {
  pdl_trigger();
  pdl_wait();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int token = blockIdx.x, head = blockIdx.y * kWarps + warp;
  if (head >= p.num_heads + 2 * p.num_kv_heads) return;
  const bool is_q = head < p.num_heads, is_v = head >= p.num_heads + p.num_kv_heads;
  const int index = is_q ? head : is_v ? head - p.num_heads - p.num_kv_heads : head - p.num_heads;
  float* row = (is_q   ? p.q + token * p.q_stride
                : is_v ? p.v + token * p.v_stride
                       : p.k + token * p.k_stride) +
               index * p.head_dim;
  const int position = p.positions[token];

  RopeRow<kPairs> values;
  values.load(row, p.head_dim, p.rotary_dim, p.interleaved);
  if (const float* norm = is_q ? p.q_norm : is_v ? nullptr : p.k_norm) {
    RopeRow<kPairs> weight;
    weight.load(norm, p.head_dim, p.rotary_dim, p.interleaved);
    values.norm(weight, p.head_dim, p.epsilon);
  }
  __half* cached = nullptr;
  if (!is_q) {
    const int block = p.block_tables[sequence_of(p, token) * p.block_table_stride + position / p.block_size];
    const int64_t slot =
        (static_cast<int64_t>(block) * p.num_kv_heads + index) * p.block_size + position % p.block_size;
    cached = (is_v ? p.v_cache : p.k_cache) + slot * p.head_dim;
  }
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int pair = lane + 32 * j;
    if (pair >= p.head_dim / 2) continue;
    if (!is_v) values.rotate(j, rope_angle(pair, position, p.rotary_dim, p.inv_freq, p.magnitude));
    const int2 dims = rope_pair(pair, p.rotary_dim, p.interleaved);
    if (is_q)
      row[dims.x] = values.x[j], row[dims.y] = values.y[j];
    else
      cached[dims.x] = __float2half(values.x[j]), cached[dims.y] = __float2half(values.y[j]);
  }
}

}  // namespace

void qk_rope_kv(const QkRopeKvArgs& args, int num_heads, const LaunchContext& context) {
  if (args.q.rows == 0) return;
  if (!reject_qk_rope_kv_prefill(args)) return qk_rope_kv_prefill(args, num_heads, context);
  if (args.head_dim > kMaxPairs * 64 || args.head_dim % 2 != 0)
    fail(ErrorCode::unsupported, "head_dim is ", args.head_dim, "; the CUDA kernels take even ones up to ",
         kMaxPairs * 64);
  const Params p{args.q.row<float>(0),
                 args.k.row<float>(0),
                 args.v.row<float>(0),
                 args.q.row_stride,
                 args.k.row_stride,
                 args.v.row_stride,
                 args.q_norm,
                 args.k_norm,
                 args.norm_epsilon,
                 args.pairing == RopePairing::interleaved,
                 args.rotary_dim,
                 args.inv_freq,
                 args.rope_magnitude,
                 static_cast<__half*>(args.cache.k),
                 static_cast<__half*>(args.cache.v),
                 num_heads,
                 args.cache.num_kv_heads,
                 args.head_dim,
                 args.cache.block_size,
                 args.batch.num_sequences,
                 args.batch.block_table_stride,
                 args.batch.query_start,
                 args.batch.block_tables,
                 args.batch.positions};
  const int heads = num_heads + 2 * args.cache.num_kv_heads;
  const dim3 grid(static_cast<unsigned>(args.q.rows), static_cast<unsigned>((heads + kWarps - 1) / kWarps));
  const auto kernel = args.head_dim <= 64    ? qk_rope_kv_kernel<1>
                      : args.head_dim <= 128 ? qk_rope_kv_kernel<2>
                      : args.head_dim <= 256 ? qk_rope_kv_kernel<4>
                                             : qk_rope_kv_kernel<kMaxPairs>;
  launch(context, "qk_rope_kv", kernel, grid, kWarps * 32, 0, p);
}

}  // namespace imp::cuda
