// Products of a short prompt with bf16 weights for sm_90a: y[t, n] (+)= sum_k x[t, k] * w[n, k], at most 128 tokens.
// Weights are read once, and reading them is what takes the time; this kernel is there to keep memory busy:
//   - a tile is 64 * kGroups rows of w by all tokens, whole or in kSplits parts of k, so that about every
//     multiprocessor has one;
//   - one thread has the copy engine bring steps of 64 of k into a ring in shared memory. It asks for weights before it
//     waits for the kernel before, so that memory works while that one ends. Weights leave the L2 cache first: what
//     other kernels left there, and sums on their way, stay;
//   - kGroups warpgroups multiply, 64 rows each: wgmma m64 x tokens x k16, w as A, x as B.
// The parts of a tile meet at a counter in memory when each has left there what the others are to add up, a share of
// the tokens each, in the order of k. Whatever a thread then needs it asks for at once: a part has 3 of 27 us for this.
//
// Fragments hold rows r = lane / 4 and r + 8 of 16: the copy engine brings rows so that the second is the first one's
// neighbour, or the row of up that belongs to that of the gate.
//
// Bytes: w once; x once a tile (L2); y once, or twice; sums of split tiles twice (L2).
#include <cuda_bf16.h>

#include <algorithm>

#include "core/error.h"
#include "device/activation.cuh"
#include "device/mma.cuh"
#include "device/pdl.cuh"
#include "device/tma.cuh"
#include "device/wgmma.cuh"
#include "linear/gemm_stream.h"
#include "runtime/tensor_map.h"

namespace imp::cuda {
namespace {

constexpr int kK = 64;
constexpr int kSplit = 4;       // parts of a tile, where one is not enough
constexpr int kMinPart = 2048;  // of k: adding up costs as much as a third of that

struct Params {
  int tokens, rows, k_steps;
  void* y;
  int64_t y_stride;
  bool accumulate, gated, bf16_out;
  Activation activation;
  float4* partial;
  int32_t* counters;  // of each tile: parts that have left their sums, parts that know that all have
};

template <int kTokens, int kGroups>
struct Tile {
  static constexpr int kRows = 64 * kGroups;
  static constexpr int kThreads = 128 * (kGroups + 1);
  // What the launch gives every thread is shared out anew: one thread brings data, the others hold sums.
  static constexpr int kProducerRegisters = kGroups == 3 ? 32 : 40, kConsumerRegisters = kGroups == 3 ? 160 : 232;
  static constexpr int kWeightBytes = kRows * kK * 2, kTokenBytes = kTokens * kK * 2;
  static constexpr int kStageBytes = kWeightBytes + kTokenBytes;
  static constexpr int kStages = 220 * 1024 / kStageBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes + 2 * kStages * 8 + 1024;  // aligned to 1024 by hand
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

template <int kTokens, int kGroups>
__device__ __forceinline__ void produce(const CUtensorMap& w, const CUtensorMap& x, uint8_t* ring, uint64_t* full,
                                        uint64_t* empty, int tile, int begin, int steps) {
  using T = Tile<kTokens, kGroups>;
  const uint64_t once = evict_first_policy();
  const auto load_weights = [&](int step, int stage) {
    mbarrier_arrive_expect(&full[stage], T::kStageBytes);
    tma_load(ring + stage * T::kStageBytes, &w, &full[stage], (begin + step) * kK, 0, 0, tile * (T::kRows / 16), once);
  };
  const auto load_tokens = [&](int step, int stage) {
    tma_load(ring + stage * T::kStageBytes + T::kWeightBytes, &x, &full[stage], (begin + step) * kK, 0);
  };
  const int first = min(steps, T::kStages);
  for (int i = 0; i < first; ++i) load_weights(i, i);
  pdl_wait();  // the weights are constant, x is not
  for (int i = 0; i < first; ++i) load_tokens(i, i);
  int stage = 0;
  uint32_t parity = 0;
  for (int step = T::kStages; step < steps; ++step) {
    mbarrier_wait(&empty[stage], parity);
    load_weights(step, stage);
    load_tokens(step, stage);
    if (++stage == T::kStages) stage = 0, parity ^= 1;
  }
}

/// A thread's share of a tile's sums: float4 i is of tokens first_token + 8 i + {0, 1}, rows n and its second.
template <int kCount>
struct Share {
  float4 sums[kCount];
  int n, first_token;
};

/// Of the sums d of one part: its share, of all parts.
template <int kTokens, int kGroups, int kSplits, int kCount>
__device__ __forceinline__ void add_parts(const Params& p, const float (&d)[kTokens / 2], float4 (&sums)[kCount],
                                          int tile, int split, int thread) {
  constexpr int kThreads = 128 * kGroups;
  // [tile][part that adds up][part that left it][float4][thread]
  float4* const left = p.partial + int64_t{tile} * (kSplits * kSplits * kCount * kThreads) + thread;
  const auto vector = [&](int i) { return make_float4(d[i * 4], d[i * 4 + 1], d[i * 4 + 2], d[i * 4 + 3]); };
#pragma unroll
  for (int part = 0; part < kSplits; ++part) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (part == split)
        sums[i] = vector(part * kCount + i);
      else
        __stcg(left + ((part * kSplits + split) * kCount + i) * kThreads, vector(part * kCount + i));
    }
  }
  named_barrier_sync(1, kThreads);
  if (thread == 0) {
    int32_t* const counter = p.counters + tile * 2;
    int32_t there, before;
    asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(counter) : "memory");
    do {
      asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(there) : "l"(counter) : "memory");
    } while (there < kSplits);
    asm volatile("atom.relaxed.gpu.global.add.s32 %0, [%1], 1;" : "=r"(before) : "l"(counter + 1) : "memory");
    if (before == kSplits - 1) counter[0] = counter[1] = 0;  // for the next launch
  }
  named_barrier_sync(1, kThreads);
  float4 more[kSplits][kCount];
#pragma unroll
  for (int part = 0; part < kSplits; ++part)
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      more[part][i] = part == split ? sums[i] : __ldcg(left + ((split * kSplits + part) * kCount + i) * kThreads);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    sums[i] = more[0][i];
#pragma unroll
    for (int part = 1; part < kSplits; ++part) {
      const float4 v = more[part][i];
      sums[i].x += v.x, sums[i].y += v.y, sums[i].z += v.z, sums[i].w += v.w;
    }
  }
}

__device__ __forceinline__ float activated(Activation activation, float x) {
  return activation == Activation::silu ? __fdividef(x, 1 + __expf(-x)) : activate_device(activation, x);
}

/// `first` of rows n of two tokens, then of their seconds.
template <int kCount, class Store>
__device__ __forceinline__ void for_each_pair(const Params& p, const Share<kCount>& share, const Store& store) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int token = share.first_token + i * 8;
    const int64_t at = token * p.y_stride + share.n;
    const float4 sum = share.sums[i];
    if (token < p.tokens) store(i * 2, at, sum.x, sum.z);
    if (token + 1 < p.tokens) store(i * 2 + 1, at + p.y_stride, sum.y, sum.w);
  }
}

template <int kTokens, int kGroups, int kSplits>
__device__ __forceinline__ void finish(const Params& p, const float (&d)[kTokens / 2], int tile, int split,
                                       int thread) {
  constexpr int kCount = kTokens / 8 / kSplits;
  const int lane = thread % 32, row16 = tile * (kGroups * 4) + thread / 32;
  Share<kCount> share;
  share.n = p.gated ? row16 * 8 + lane / 4 : row16 * 16 + lane / 4 * 2;
  share.first_token = split * kCount * 8 + lane % 4 * 2;
  const bool inside = share.n < (p.gated ? p.rows / 2 : p.rows);
  auto* wide = static_cast<float*>(p.y);
  auto* narrow = static_cast<__nv_bfloat16*>(p.y);
  float2 before[kCount * 2] = {};
  if (p.accumulate && inside)
    for_each_pair(p, share,
                  [&](int i, int64_t at, float, float) { before[i] = *reinterpret_cast<const float2*>(wide + at); });
  if constexpr (kSplits > 1) {
    add_parts<kTokens, kGroups, kSplits>(p, d, share.sums, tile, split, thread);
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) share.sums[i] = make_float4(d[i * 4], d[i * 4 + 1], d[i * 4 + 2], d[i * 4 + 3]);
  }
  if (!inside) return;
  if (p.gated && p.bf16_out) {
    for_each_pair(p, share, [&](int, int64_t at, float gate, float up) {
      narrow[at] = __float2bfloat16(activated(p.activation, gate) * up);
    });
  } else if (p.gated) {
    for_each_pair(p, share,
                  [&](int, int64_t at, float gate, float up) { wide[at] = activated(p.activation, gate) * up; });
  } else if (p.bf16_out) {
    for_each_pair(p, share, [&](int, int64_t at, float first, float second) {
      *reinterpret_cast<uint32_t*>(narrow + at) = pack_bf16(first, second);
    });
  } else {
    for_each_pair(p, share, [&](int i, int64_t at, float first, float second) {
      *reinterpret_cast<float2*>(wide + at) = {before[i].x + first, before[i].y + second};
    });
  }
}

template <int kTokens, int kGroups, int kSplits>
__device__ __forceinline__ void consume(const Params& p, const uint8_t* ring, uint64_t* full, uint64_t* empty, int tile,
                                        int split, int steps) {
  using T = Tile<kTokens, kGroups>;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const uint32_t base = __shfl_sync(~0u, shared_address(ring), 0);
  const uint64_t weights = wgmma_descriptor(base + thread / 128 * (64 * 128));
  const uint64_t tokens = wgmma_descriptor(base + T::kWeightBytes);
  float d[kTokens / 2];
  int stage = 0, previous = -1;
  uint32_t parity = 0;
  for (int step = 0; step < steps; ++step) {
    mbarrier_wait(&full[stage], parity);
    const uint64_t offset = static_cast<uint32_t>(stage * T::kStageBytes) >> 4;
#pragma unroll
    for (int i = 0; i < kTokens / 2; ++i) asm volatile("" : "+f"(d[i])::"memory");
    wgmma_fence();
#pragma unroll
    for (int part = 0; part < kK / 16; ++part)
      wgmma_bf16(d, weights + offset + part * 2, tokens + offset + part * 2, step > 0 || part > 0);
    wgmma_commit();
    if (previous >= 0) {
      wgmma_wait<1>();
      if (lane == 0) mbarrier_arrive(&empty[previous]);
    }
    previous = stage;
    if (++stage == T::kStages) stage = 0, parity ^= 1;
  }
  wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < kTokens / 2; ++i) asm volatile("" : "+f"(d[i])::"memory");
  pdl_wait();  // y and the scratch are written below
  finish<kTokens, kGroups, kSplits>(p, d, tile, split, thread);
}

#endif

template <int kTokens, int kGroups, int kSplits>
__global__ __launch_bounds__(Tile<kTokens, kGroups>::kThreads,
                             1) void gemm_stream_kernel(const __grid_constant__ Params p,
                                                        const __grid_constant__ CUtensorMap w,
                                                        const __grid_constant__ CUtensorMap x) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using T = Tile<kTokens, kGroups>;
  extern __shared__ uint8_t shared[];
  uint8_t* ring = shared + (1024 - shared_address(shared) % 1024) % 1024;
  auto* full = reinterpret_cast<uint64_t*>(ring + T::kStages * T::kStageBytes);
  uint64_t* empty = full + T::kStages;
  pdl_trigger();
  if (threadIdx.x == 0) {
    tma_prefetch_map(&w), tma_prefetch_map(&x);
    for (int i = 0; i < T::kStages; ++i) {
      mbarrier_init(&full[i], 1);
      mbarrier_init(&empty[i], kGroups * 4);  // a warp each
    }
    mbarrier_init_fence();
  }
  __syncthreads();
  // Parts of a tile start one after another, so that those who wait for each other run at the same time.
  const int tile = static_cast<int>(blockIdx.x) / kSplits, split = static_cast<int>(blockIdx.x) % kSplits;
  const int begin = p.k_steps * split / kSplits, steps = p.k_steps * (split + 1) / kSplits - begin;
  if (threadIdx.x >= 128 * kGroups) {
    registers_give<T::kProducerRegisters>();
    if (threadIdx.x == 128 * kGroups) produce<kTokens, kGroups>(w, x, ring, full, empty, tile, begin, steps);
  } else {
    registers_take<T::kConsumerRegisters>();
    consume<kTokens, kGroups, kSplits>(p, ring, full, empty, tile, split, steps);
  }
#endif
}

template <int kTokens, int kGroups, int kSplits>
void launch_tile(const StreamGemmArgs& args, const LaunchContext& context) {
  using T = Tile<kTokens, kGroups>;
  const auto cols = static_cast<uint64_t>(args.cols), rows = static_cast<uint64_t>(args.rows), row_bytes = cols * 2;
  // 16 rows of a tile: 8, and the 8 that are their neighbours or belong to them.
  const uint64_t first = args.gated ? row_bytes : 2 * row_bytes, second = args.gated ? rows / 2 * row_bytes : row_bytes;
  const uint64_t next = args.gated ? 8 * row_bytes : 16 * row_bytes;
  const CUtensorMap w = make_tensor_map(
      {args.w, true, {cols, 8, 2, rows / 16}, {first, second, next}, {kK, 8, 2, static_cast<uint32_t>(T::kRows / 16)}});
  const CUtensorMap x =
      make_tensor_map({args.x, true, {cols, static_cast<uint64_t>(args.tokens)}, {row_bytes}, {kK, kTokens}});
  const int tiles = (args.rows + T::kRows - 1) / T::kRows;
  const int64_t partial_bytes = int64_t{tiles} * kSplits * T::kRows * kTokens * int64_t{sizeof(float)};
  if (kSplits > 1 && (tiles * 2 > args.num_counters || partial_bytes > args.partial_bytes))
    fail(ErrorCode::internal, "gemm_stream: ", tiles, " tiles in ", kSplits, " parts take ", partial_bytes,
         " bytes of scratch and ", tiles * 2, " counters, and there are ", args.partial_bytes, " and ",
         args.num_counters);
  const Params p = {.tokens = args.tokens,
                    .rows = args.rows,
                    .k_steps = (args.cols + kK - 1) / kK,
                    .y = args.y,
                    .y_stride = args.y_stride,
                    .accumulate = args.accumulate,
                    .gated = args.gated,
                    .bf16_out = args.bf16_out,
                    .activation = args.activation,
                    .partial = reinterpret_cast<float4*>(args.partial),
                    .counters = args.counters};
  launch(context, "gemm_stream", gemm_stream_kernel<kTokens, kGroups, kSplits>, static_cast<unsigned>(tiles * kSplits),
         T::kThreads, T::kSharedBytes, p, w, x);
}

template <int kTokens, int kGroups>
void launch_tile(const StreamGemmArgs& args, int splits, const LaunchContext& context) {
  splits == 1 ? launch_tile<kTokens, kGroups, 1>(args, context) : launch_tile<kTokens, kGroups, kSplit>(args, context);
}

}  // namespace

StreamPlan plan_stream_gemm(int64_t rows, int64_t cols, int num_sms) {
  StreamPlan best;
  if (rows % 16 != 0 || cols % 8 != 0 || num_sms == 0) return best;
  for (const int groups : {2, 3}) {
    for (const int splits : {1, kSplit}) {
      const int64_t blocks = (rows + 64 * groups - 1) / (64 * groups) * splits;
      // Parts of a tile wait for each other: all run at once.
      if (splits > 1 && (blocks > num_sms || cols < splits * kMinPart)) continue;
      const int64_t waves = (blocks + num_sms - 1) / num_sms;
      const double busy = static_cast<double>(rows * splits) / static_cast<double>(waves * num_sms * 64 * groups);
      if (busy > best.busy) best = {groups, splits, busy};
    }
  }
  return best;
}

void gemm_stream(const StreamGemmArgs& args, const LaunchContext& context, const StreamPlan* plan) {
  if (args.tokens == 0) return;
  const StreamPlan chosen = plan ? *plan : plan_stream_gemm(args.rows, args.cols, context.num_sms);
  if ((chosen.splits != 1 && chosen.splits != kSplit) || args.tokens > kStreamMaxTokens)
    fail(ErrorCode::internal, "gemm_stream cannot multiply ", args.tokens, " tokens by ", args.rows, " x ", args.cols);
  const bool few = args.tokens <= 64;
  if (chosen.groups == 3)
    few ? launch_tile<64, 3>(args, chosen.splits, context) : launch_tile<128, 3>(args, chosen.splits, context);
  else
    few ? launch_tile<64, 2>(args, chosen.splits, context) : launch_tile<128, 2>(args, chosen.splits, context);
}

}  // namespace imp::cuda
