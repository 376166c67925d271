#include <algorithm>

#include "attention/attention_params.cuh"
#include "attention/cublas_decode.h"
#include "core/error.h"
#include "device/math.cuh"
#include "device/pdl.cuh"

// Decode attention by the book, one sequence after another; n: the batch's longest context, rounded up to 64 keys.
//  1. gather:  K[kv head][n][head_dim], V^T[kv head][head_dim][n] and the scaled queries, all f16; zeros behind the
//  end.
//  2. cublas_qk, a kv head:  S[group][n] = Q K^T, fp32.
//  3. softmax: P = exp(cap(S) - max) for the keys that the token sees, else 0, f16 and not yet divided by its sum,
//  which
//     at long contexts would leave little of f16's precision.
//  4. cublas_pv, a kv head:  O[group][head_dim] = P V, fp32.
//  5. out:     O / sum.
// Bytes: K and V read once and written once, then read by the products; S and P are small beside them.

namespace imp::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kKeysOfBlock = 16;
constexpr int64_t kContextStep = 64;  // n changes, and the library is asked for an algorithm, every so many tokens

struct Parts {
  __half *q, *k, *v, *p;  // [heads][head_dim], K, V^T, [heads][n]
  float *s, *o, *sum;     // [heads][n], [heads][head_dim], [heads]
  int64_t n;
  int64_t bytes;
};
Parts parts_of(void* data, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t context_len) {
  Parts parts = {};
  parts.n = (context_len + kContextStep - 1) / kContextStep * kContextStep;
  const auto take = [&]<class T>(T*& part, int64_t count) {
    part = reinterpret_cast<T*>(static_cast<std::byte*>(data) + parts.bytes);
    parts.bytes += (count * int64_t{sizeof(T)} + 255) / 256 * 256;  // products are fastest on such addresses
  };
  take(parts.k, kv_heads * parts.n * head_dim);
  take(parts.v, kv_heads * parts.n * head_dim);
  take(parts.s, heads * parts.n);
  take(parts.p, heads * parts.n);
  take(parts.q, heads * head_dim);
  take(parts.o, heads * head_dim);
  take(parts.sum, heads);
  return parts;
}

/// Grid (n / 16, kv heads): a page each. The first blocks bring the queries along.
__global__ __launch_bounds__(kThreads) void gather_kernel(const AttentionParams p, Parts to, int sequence,
                                                          int head_dim) {
  pdl_trigger();
  pdl_wait();
  const SequenceSpan span = sequence_span(p, sequence);
  const int kv_head = blockIdx.y, first = static_cast<int>(blockIdx.x) * kKeysOfBlock;
  const int keys = min(max(span.first_position + span.num_tokens - first, 0), kKeysOfBlock);
  const int64_t block = keys > 0 ? span.block_table[first / kKeysOfBlock] : 0;
  const int64_t from = (block * p.num_kv_heads + kv_head) * kKeysOfBlock * head_dim;
  __half* k = to.k + (kv_head * to.n + first) * head_dim;
  for (int i = threadIdx.x; i < kKeysOfBlock * head_dim; i += kThreads)
    k[i] = i < keys * head_dim ? p.k[from + i] : __half(0);
  for (int i = threadIdx.x; i < kKeysOfBlock * head_dim; i += kThreads) {
    const int key = i / head_dim, dim = i % head_dim;
    to.v[(int64_t{kv_head} * head_dim + dim) * to.n + first + key] = key < keys ? p.v[from + i] : __half(0);
  }
  if (first > 0) return;
  const int64_t heads = int64_t{kv_head} * p.group * head_dim;
  for (int i = threadIdx.x; i < p.group * head_dim; i += kThreads)
    to.q[heads + i] = __float2half_rn(p.q[span.first_token * p.q_stride + heads + i] * p.scale);
}

template <class Combine>
__device__ __forceinline__ float reduce_block(float value, const Combine& combine) {
  __shared__ float of_warps[kThreads / 32];
  for (int offset = 16; offset > 0; offset /= 2) value = combine(value, __shfl_xor_sync(~0u, value, offset));
  __syncthreads();
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
  __syncthreads();
  value = of_warps[0];
  for (int w = 1; w < kThreads / 32; ++w) value = combine(value, of_warps[w]);
  return value;
}

/// A block a head.
__global__ __launch_bounds__(kThreads) void softmax_kernel(const AttentionParams p, Parts parts, int sequence) {
  pdl_trigger();
  pdl_wait();
  const SequenceSpan span = sequence_span(p, sequence);
  const int last = span.first_position, begin = p.window > 0 ? max(0, last - p.window + 1) : 0;
  const float* scores = parts.s + blockIdx.x * parts.n;
  __half* weights = parts.p + blockIdx.x * parts.n;
  const auto score = [&](int key) { return p.softcap > 0 ? soft_cap(scores[key], p.softcap) : scores[key]; };
  float top = -INFINITY, sum = 0;
  for (int key = begin + threadIdx.x; key <= last; key += kThreads) top = fmaxf(top, score(key));
  top = reduce_block(top, [](float a, float b) { return fmaxf(a, b); });
  for (int key = threadIdx.x; key < parts.n; key += kThreads) {
    const float weight = key >= begin && key <= last ? expf(score(key) - top) : 0;
    sum += weight;
    weights[key] = __float2half_rn(weight);
  }
  sum = reduce_block(sum, [](float a, float b) { return a + b; });
  if (threadIdx.x == 0) parts.sum[blockIdx.x] = sum;
}

/// A block a head.
__global__ __launch_bounds__(kThreads) void out_kernel(const AttentionParams p, Parts parts, int sequence,
                                                       int head_dim) {
  pdl_trigger();
  pdl_wait();
  const int64_t token = p.query_start[sequence], head = blockIdx.x;
  for (int dim = threadIdx.x; dim < head_dim; dim += kThreads)
    store_one(p, token * p.out_stride + head * head_dim + dim, parts.o[head * head_dim + dim] / parts.sum[head]);
}

}  // namespace

int64_t cublas_decode_bytes(int num_heads, int num_kv_heads, int head_dim, int64_t context_len) {
  return parts_of(nullptr, num_heads, num_kv_heads, head_dim, context_len).bytes;
}

void cublas_decode(const AttentionArgs& args, const CublasDecodeBuffer& buffer, CublasLt& products,
                   const LaunchContext& context) {
  const AttentionParams p = make_params(args);
  const int head_dim = args.cache.head_dim;
  if (p.block_size != kKeysOfBlock)
    fail(ErrorCode::unsupported, "attention.force_cublas_decode takes KV cache blocks of ", kKeysOfBlock,
         " tokens, and these have ", p.block_size);
  const Parts parts = parts_of(buffer.data, args.num_heads, p.num_kv_heads, head_dim, args.batch.max_context_len);
  if (parts.bytes > buffer.bytes)
    fail(ErrorCode::internal, "attention.force_cublas_decode: a context of ", args.batch.max_context_len, " needs ",
         parts.bytes, " bytes, and ", buffer.bytes, " were planned");
  const auto heads = static_cast<unsigned>(args.num_heads), kv_heads = static_cast<unsigned>(p.num_kv_heads);
  const auto pages = static_cast<unsigned>(parts.n / kKeysOfBlock);
  const auto multiply = [&](const char* name, const GemmCall& call) {
    products.gemm(call, context.stream);
    if (context.launches) ++(*context.launches)[name];
    if (context.synchronous) check(cudaStreamSynchronize(context.stream), name);
  };
  for (int sequence = 0; sequence < args.batch.num_sequences; ++sequence) {
    launch(context, "cublas_decode_gather", gather_kernel, dim3(pages, kv_heads), kThreads, 0, p, parts, sequence,
           head_dim);
    for (int64_t head = 0; head < p.num_kv_heads; ++head)
      multiply("cublas_qk", {.a = parts.q + head * p.group * head_dim,
                             .w = parts.k + head * parts.n * head_dim,
                             .y = parts.s + head * p.group * parts.n,
                             .m = p.group,
                             .n = parts.n,
                             .k = head_dim,
                             .y_stride = parts.n,
                             .inputs = GemmInputs::f16});
    launch(context, "cublas_decode_softmax", softmax_kernel, heads, kThreads, 0, p, parts, sequence);
    for (int64_t head = 0; head < p.num_kv_heads; ++head)
      multiply("cublas_pv", {.a = parts.p + head * p.group * parts.n,
                             .w = parts.v + head * parts.n * head_dim,
                             .y = parts.o + head * p.group * head_dim,
                             .m = p.group,
                             .n = head_dim,
                             .k = parts.n,
                             .y_stride = head_dim,
                             .inputs = GemmInputs::f16});
    launch(context, "cublas_decode_out", out_kernel, heads, kThreads, 0, p, parts, sequence, head_dim);
  }
}

}  // namespace imp::cuda
