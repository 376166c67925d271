// Norm, rotation and cache slots of a prefill: q and k rows of every token, see QkRopeKvArgs.
//
// One block a token, each warp every kWarps-th head: q heads, then k heads, then v heads. A lane holds head_dim / 32
// neighbouring values of a head, 4 to 32 bytes an access; the partner of a value is in the same lane (interleaved) or
// 16 lanes away (half_split). A warp asks for kBatch heads at once, before anything else: the token's angles, computed
// once into shared memory for all heads, are ready by the time they are there.
// Bytes moved, a token: q read and written (8 bytes a value), k and v read, and written as f16 (6 bytes a value).
#include <cuda_fp16.h>

#include <algorithm>

#include "device/pdl.cuh"
#include "device/reduce.cuh"
#include "rope/qk_rope_kv_prefill.h"

namespace imp::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kBatch = 6;  // all heads of 32 + 8 + 8 at once
constexpr int64_t kMinTokens = 32;

struct Params {
  float *q, *k, *v;
  int64_t q_stride, k_stride, v_stride;
  const float *q_norm, *k_norm;
  float epsilon;
  bool interleaved;
  const float* inv_freq;
  float magnitude;
  __half *k_cache, *v_cache;
  int num_heads, num_kv_heads, block_size;
  int num_sequences, block_table_stride;
  const int32_t *query_start, *block_tables, *positions;
};

template <int kValues>
struct alignas(sizeof(float) * (kValues < 4 ? kValues : 4)) Values {
  float v[kValues];
};
template <int kValues>
struct alignas(sizeof(__half) * kValues) Halves {
  __half v[kValues];
};

template <int kHeadDim>
__global__ __launch_bounds__(kWarps * 32) void qk_rope_kv_prefill_kernel(Params p) {
  constexpr int kValues = kHeadDim / 32, kHalf = kHeadDim / 2;
  __shared__ float2 angles[kHalf];  // cosine, sine
  pdl_trigger();
  pdl_wait();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, token = blockIdx.x;
  const int first = lane * kValues, num_rows = p.num_heads + 2 * p.num_kv_heads;
  const auto row_of = [&](int head) {
    const int k_head = head - p.num_heads, v_head = k_head - p.num_kv_heads;
    float* row = k_head < 0   ? p.q + token * p.q_stride + head * kHeadDim
                 : v_head < 0 ? p.k + token * p.k_stride + k_head * kHeadDim
                              : p.v + token * p.v_stride + v_head * kHeadDim;
    return reinterpret_cast<Values<kValues>*>(row + first);
  };
  Values<kValues> batch[kBatch];
  const auto load_batch = [&](int begin) {
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
      if (begin + i * kWarps < num_rows) batch[i] = *row_of(begin + i * kWarps);
  };
  load_batch(warp);
  const int position = p.positions[token];
  for (int i = threadIdx.x; i < kHalf; i += kWarps * 32) {
    float sine, cosine;
    sincosf(static_cast<float>(position) * p.inv_freq[i], &sine, &cosine);
    angles[i] = make_float2(cosine * p.magnitude, sine * p.magnitude);
  }
  int sequence = 0;
  while (sequence + 1 < p.num_sequences && token >= p.query_start[sequence + 1]) ++sequence;
  const int64_t block = p.block_tables[sequence * p.block_table_stride + position / p.block_size];
  const int in_block = position % p.block_size;
  __syncthreads();

  // A lane's part of the angles is the same for every head.
  float cosine[kValues], sine[kValues];
#pragma unroll
  for (int j = 0; j < kValues; ++j) {
    const int d = first + j;
    const float2 angle = angles[p.interleaved ? d / 2 : d % kHalf];
    const bool second = p.interleaved ? d % 2 == 1 : d >= kHalf;
    cosine[j] = angle.x, sine[j] = second ? angle.y : -angle.y;  // out = own * cosine + partner * sine
  }
  const auto finish = [&](int head, Values<kValues>& x) {
    const bool is_q = head < p.num_heads, is_v = head >= p.num_heads + p.num_kv_heads;
    const float* norm = is_q ? p.q_norm : is_v ? nullptr : p.k_norm;
    if (norm) {
      float sum_sq = 0;
#pragma unroll
      for (float value : x.v) sum_sq += value * value;
      const float scale = rsqrtf(warp_sum(sum_sq) / kHeadDim + p.epsilon);
      const Values<kValues> weight = *reinterpret_cast<const Values<kValues>*>(norm + first);
#pragma unroll
      for (int j = 0; j < kValues; ++j) x.v[j] *= scale * weight.v[j];
    }
    if (!is_v) {
      Values<kValues> partner;
#pragma unroll
      for (int j = 0; j < kValues; ++j) {
        const float across = __shfl_xor_sync(~0u, x.v[j], 16);
        partner.v[j] = p.interleaved ? x.v[j ^ 1] : across;
      }
#pragma unroll
      for (int j = 0; j < kValues; ++j) x.v[j] = x.v[j] * cosine[j] + partner.v[j] * sine[j];
    }
    if (is_q) {
      *row_of(head) = x;
      return;
    }
    Halves<kValues> rounded;
#pragma unroll
    for (int j = 0; j < kValues; ++j) rounded.v[j] = __float2half(x.v[j]);
    const int index = head - p.num_heads - (is_v ? p.num_kv_heads : 0);
    const int64_t slot = (block * p.num_kv_heads + index) * p.block_size + in_block;
    *reinterpret_cast<Halves<kValues>*>((is_v ? p.v_cache : p.k_cache) + slot * kHeadDim + first) = rounded;
  };
  for (int begin = warp; begin < num_rows; begin += kBatch * kWarps) {
    if (begin > warp) load_batch(begin);
#pragma unroll
    for (int i = 0; i < kBatch; ++i)
      if (begin + i * kWarps < num_rows) finish(begin + i * kWarps, batch[i]);
  }
}

struct Width {
  int head_dim;
  void (*kernel)(Params);
};
constexpr Width kWidths[] = {
    {64, qk_rope_kv_prefill_kernel<64>}, {128, qk_rope_kv_prefill_kernel<128>}, {256, qk_rope_kv_prefill_kernel<256>}};

/// Null where there is none.
auto kernel_of(int head_dim) -> void (*)(Params) {
  const auto width = std::ranges::find(kWidths, head_dim, &Width::head_dim);
  return width == std::end(kWidths) ? nullptr : width->kernel;
}

bool aligned(const TensorView& rows) {
  return reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && rows.row_stride % 4 == 0;
}

}  // namespace

const char* reject_qk_rope_kv_prefill(const QkRopeKvArgs& args) {
  if (args.q.rows < kMinTokens) return "fewer than 32 tokens";
  if (!kernel_of(args.head_dim)) return "no instance for this head_dim";
  if (args.rotary_dim != args.head_dim) return "only a part of a head turns";
  if (!aligned(args.q) || !aligned(args.k) || !aligned(args.v)) return "rows do not start at multiples of 16 bytes";
  return nullptr;
}

void qk_rope_kv_prefill(const QkRopeKvArgs& args, int num_heads, const LaunchContext& context) {
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
                 args.inv_freq,
                 args.rope_magnitude,
                 static_cast<__half*>(args.cache.k),
                 static_cast<__half*>(args.cache.v),
                 num_heads,
                 args.cache.num_kv_heads,
                 args.cache.block_size,
                 args.batch.num_sequences,
                 args.batch.block_table_stride,
                 args.batch.query_start,
                 args.batch.block_tables,
                 args.batch.positions};
  launch(context, "qk_rope_kv_prefill", kernel_of(args.head_dim), static_cast<unsigned>(args.q.rows), kWarps * 32, 0,
         p);
}

}  // namespace imp::cuda
