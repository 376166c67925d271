#pragma once
// Decode-time matrix-vector product over packed weights and float rows (linear/gemv.h has the meaning).
//
//   y[t, n] = inverse_rms[t] * sum_strips sum_lanes product(weights of row n, h[t]) * scale + bias
//
// Mapping: one block of 16 warps an SM, a block has a contiguous share of the rows of one output (so outputs may differ
// in format), its warps take kRows rows at a time, over all strips of a row or, where rows are few, over a chunk of
// them. Weights go through a ring in shared memory that each warp fills for itself with cp.async: lanes read back
// mostly what they copied, so nobody waits for anybody, and the copies in flight cost no registers. With at most 64
// registers a thread and half of the shared memory, the blocks of the next launch fit beside these: they fill their
// ring before griddepcontrol.wait and start with weights that are there already.
//
// Bytes moved: the weights once; x and the norm's weights once a block, from L2. A norm's weights are fetched before
// the wait.
#include <cuda_runtime.h>

#include <algorithm>
#include <type_traits>

#include "core/error.h"
#include "device/activation.cuh"
#include "device/pdl.cuh"
#include "device/weight_ring.cuh"
#include "linear/gemv_input.cuh"
#include "linear/gemv_plan.h"
#include "runtime/launch.h"

namespace imp::cuda {

inline constexpr int kGemvWarps = 16;
inline constexpr int kGemvThreads = kGemvWarps * 32;
inline constexpr int kGemvShallow = 2;  // depth of the ring where shared memory is short

/// Sums kCount values over the lanes of a warp; lane l then has the sum of value l / (32 / kCount).
template <int kCount>
__device__ __forceinline__ float sum_lanes(float (&values)[kCount], int lane) {
  static_assert((kCount & (kCount - 1)) == 0 && kCount <= 32);
  int offset = 16;
#pragma unroll
  for (int count = kCount / 2; count > 0; count /= 2, offset /= 2) {
    const bool upper = lane & offset;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const float mine = upper ? values[i + count] : values[i], other = upper ? values[i] : values[i + count];
      values[i] = mine + __shfl_xor_sync(~0u, other, offset);
    }
  }
  for (; offset > 0; offset /= 2) values[0] += __shfl_xor_sync(~0u, values[0], offset);
  return values[0];
}

/// Work of a warp, step by step: groups of rows, of these chunks of strips, of these strips.
struct GemvCursor {
  int group, chunk, strip, strip_end;

  __device__ __forceinline__ void enter(const GemvPlan& plan, int strips) {
    strip = chunk * plan.chunk_strips;
    strip_end = min(strip + plan.chunk_strips, strips);
  }
  __device__ __forceinline__ GemvCursor(const GemvPlan& plan, int strips, int warp) {
    group = warp / plan.num_chunks, chunk = warp % plan.num_chunks;
    enter(plan, strips);
  }
  __device__ __forceinline__ void next_chunk(const GemvPlan& plan, int strips) {
    group += plan.groups_per_turn, chunk += plan.chunks_per_turn;
    if (chunk >= plan.num_chunks) chunk -= plan.num_chunks, ++group;
    enter(plan, strips);
  }
};

/// What a strip takes in the ring: whole lines of 128 bytes, as its weights have them in global memory; one behind the
/// other they cost a layer 2 to 8 % more, a ring 16 bytes off lines a seventh. With two tokens the next launch needs
/// the room.
template <class Ring, int kTokens, int kDepth>
inline constexpr int kGemvSlotBytes = kTokens == 1 && kDepth > kGemvShallow ? (Ring::kBytes + 127) / 128 * 128
                                                                            : Ring::kBytes;

template <class Ring, class Input, int kRows, int kTokens, int kDepth, bool kWhole>
__device__ __forceinline__ void run_gemv(const GemvArgs& args, const GemvPlan& plan, const GemvShare& share,
                                         uint8_t* shared, float (&sum_sq)[kGemvWarps][kTokens]) {
  constexpr int kThreads = kGemvThreads, kSlot = kGemvSlotBytes<Ring, kTokens, kDepth>;
  constexpr int kStage = kGemvWarps * kRows * kSlot;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const GemvOutput& out = args.outputs[share.output];
  const int cols = out.weight.cols, strips = (cols + Input::kStripCols - 1) / Input::kStripCols;
  const int sub_rows = args.gated ? share.rows * 2 : share.rows, groups = (sub_rows + kRows - 1) / kRows;
  uint8_t* const ring = shared + warp * kRows * kSlot;
  uint8_t* const inputs = shared + plan.ring_bytes;
  const int token_bytes = Input::token_bytes(cols);
  float* const partial = reinterpret_cast<float*>(inputs + token_bytes * args.tokens);  // [chunk][sub row][token]

  // Of a gated pair, gate and up rows alternate.
  auto weight_of = [&](int sub) -> const PackedView& {
    return args.gated && (sub & 1) ? args.outputs[1].weight : out.weight;
  };
  auto row_of = [&](int sub) { return share.first + (args.gated ? sub >> 1 : sub); };
  GemvCursor ahead(plan, strips, warp), now = ahead;
  typename Ring::Whole whole[kRows];
  auto enter = [&] {
    if constexpr (kWhole) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int sub = min(ahead.group * kRows + r, sub_rows - 1);
        whole[r].start(weight_of(sub), row_of(sub), ahead.strip, lane);
      }
    }
  };
  auto copy_step = [&](uint8_t* to) {
    if (ahead.group < groups) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if constexpr (kWhole) {
          whole[r].copy(to + r * kSlot, lane);
          whole[r].next(lane);
        } else {
          const int sub = min(ahead.group * kRows + r, sub_rows - 1);
          Ring::copy(to + r * kSlot, weight_of(sub), row_of(sub), ahead.strip, lane);
        }
      }
      if (++ahead.strip == ahead.strip_end) {
        ahead.next_chunk(plan, strips);
        enter();
      }
    }
    cp_async_commit();
  };

  pdl_trigger();
  enter();
#pragma unroll
  for (int s = 0; s < kDepth - 1; ++s) copy_step(ring + s * kStage);
  EightFloats norm;  // of this thread's first item; the rest only on its way to L2
  const int items = Input::items(cols);
  if (args.norm_weight) {
    if (threadIdx.x * 8 < cols) norm.load(args.norm_weight + threadIdx.x * 8);
    for (int i = threadIdx.x * 32 + kThreads * 8; i < cols; i += kThreads * 32)
      asm volatile("prefetch.global.L2 [%0];" ::"l"(args.norm_weight + i));
  }
  pdl_wait();

  // The residual that results will be added to: on its way while the product is computed.
  float before[kTokens];
  if (args.accumulate) {
#pragma unroll
    for (int t = 0; t < kTokens; ++t)
      if (t < args.tokens && threadIdx.x < share.rows) before[t] = out.y[t * out.y_stride + share.first + threadIdx.x];
  }
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (kTokens > 1 && t >= args.tokens) break;
    const float* x = args.x + (args.row_indices ? args.row_indices[t] : t) * args.x_stride;
    uint8_t* token = inputs + t * token_bytes;
    float squares = 0;
    for (int i = threadIdx.x; i < items; i += kThreads) {
      EightFloats v;
      v.clear();
      if (i * 8 < cols) {
        v.load(x + i * 8);
        squares += v.sum_of_squares();
        if (args.norm_weight) {
          if (i != static_cast<int>(threadIdx.x)) norm.load(args.norm_weight + i * 8);
          v.multiply(norm);
        }
      }
      Input::store(token, cols, i, v);
    }
    // Another token needs this thread's first weights again.
    if (kTokens > 1 && args.norm_weight && items > kThreads && threadIdx.x * 8 < cols)
      norm.load(args.norm_weight + threadIdx.x * 8);
    squares = warp_sum(squares);
    if (lane == 0) sum_sq[warp][t] = squares;
  }
  __syncthreads();

  int slot = 0, free_slot = (kDepth - 1) * kStage;  // offsets
  while (now.group < groups) {
    float acc[kRows * kTokens] = {};
    for (; now.strip < now.strip_end; ++now.strip) {
      cp_async_wait<kDepth - 2>();
      __syncwarp();  // scales come from other lanes; and the slot to be filled has been read by all
      copy_step(ring + free_slot);
      if (kWhole || Input::has(cols, now.strip, lane)) {
        decltype(Ring::read(ring, lane)) w[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r) w[r] = Ring::read(ring + slot + r * kSlot, lane);
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
          if (kTokens > 1 && t >= args.tokens) break;
          Input x;
          x.load(inputs + t * token_bytes, cols, now.strip, lane);
#pragma unroll
          for (int r = 0; r < kRows; ++r) acc[r * kTokens + t] += x.product(w[r]);
        }
      }
      free_slot = slot;
      slot = slot == (kDepth - 1) * kStage ? 0 : slot + kStage;
    }
    const float sum = sum_lanes(acc, lane);
    constexpr int kLanesEach = 32 / (kRows * kTokens);
    const int value = lane / kLanesEach, sub = now.group * kRows + value / kTokens;
    if (lane % kLanesEach == 0 && sub < sub_rows)
      partial[(now.chunk * sub_rows + sub) * kTokens + value % kTokens] = sum;
    now.next_chunk(plan, strips);
  }
  // While other warps are still at work: the norm's divisor.
  float inverse_rms[kTokens];
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    inverse_rms[t] = 1;
    if (t < args.tokens && args.norm_weight && threadIdx.x < share.rows) {
      float squares = 0;
#pragma unroll
      for (int w = 0; w < kGemvWarps; ++w) squares += sum_sq[w][t];
      inverse_rms[t] = rsqrtf(squares * plan.one_over_cols + args.norm_epsilon);
    }
  }
  __syncthreads();

  for (int i = threadIdx.x; i < share.rows; i += kThreads) {
    const int row = share.first + i;
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (kTokens > 1 && t >= args.tokens) break;
      auto result = [&](const GemvOutput& of, int sub) {
        float sum = 0;
        for (int c = 0; c < plan.num_chunks; ++c) sum += partial[(c * sub_rows + sub) * kTokens + t];
        return sum * inverse_rms[t] * of.scale + (of.bias ? of.bias[row] : 0);
      };
      float* y = out.y + t * out.y_stride + row;
      if (args.gated) {
        const float g = result(out, i * 2), u = result(args.outputs[1], i * 2 + 1);
        *y = activate_device(args.activation, g) * u;
      } else {
        const float value = result(out, i);
        *y = args.accumulate ? (i < kThreads ? before[t] : *y) + value : value;
      }
    }
  }
}

/// `Second` is for outputs whose layout is not that of the first. kWhole: rows are whole strips.
template <class Ring, class Second, class Input, int kRows, int kTokens, int kDepth, bool kWhole>
__global__ __launch_bounds__(kGemvThreads,
                             kTokens <= 2 ? 2 : 1) void gemv_kernel(const __grid_constant__ GemvArgs args,
                                                                    const __grid_constant__ GemvPlan plan) {
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ __align__(16) float sum_sq[kGemvWarps][kTokens];
  const GemvShare share = gemv_share(plan, blockIdx.x);
  if constexpr (!std::is_same_v<Ring, Second>) {
    if (args.outputs[share.output].second_layout)
      return run_gemv<Second, Input, kRows, kTokens, kDepth, kWhole>(args, plan, share, shared, sum_sq);
  }
  run_gemv<Ring, Input, kRows, kTokens, kDepth, kWhole>(args, plan, share, shared, sum_sq);
}

template <class Ring, class Second, int kRows, int kDepth>
constexpr int gemv_ring_bytes() {
  return std::max(Ring::kBytes, Second::kBytes) * kRows * kGemvWarps * kDepth;
}
/// The largest shallow ring of integer codes, and of float rows: what the table asks a GPU's shared memory for.
inline constexpr int kGemvMostShallow = gemv_ring_bytes<RingQ6K, RingQ6K, 2, kGemvShallow>();
inline constexpr int kGemvMostShallowRows =
    gemv_ring_bytes<RingRows<WeightFormat::f16>, RingRows<WeightFormat::f16>, 2, kGemvShallow>();

template <class Ring, class Second, class Input, int kRows, int kTokens, int kDepth>
void launch_gemv(const char* name, const GemvArgs& args, const LaunchContext& context) {
  static_assert(gemv_ring_bytes<Ring, Second, kRows, kGemvShallow>() <=
                (std::is_same_v<Input, InputInt8> ? kGemvMostShallow : kGemvMostShallowRows));
  // The system keeps 1 KiB a block, the kernel declares less than another.
  const int half = (context.max_shared_bytes + 1024) / 2 - 2048;
  const int cols = args.outputs[0].weight.cols;
  GemvShape shape = {
      .strip_bytes = {Ring::kBytes, Second::kBytes},
      .slot_bytes = std::max(kGemvSlotBytes<Ring, kTokens, kDepth>, kGemvSlotBytes<Second, kTokens, kDepth>),
      .strip_cols = Input::kStripCols,
      .token_bytes = Input::token_bytes(cols),
      .rows = kRows,
      .tokens = kTokens,
      .warps = kGemvWarps,
      .depth = kDepth};
  GemvPlan plan = plan_gemv(args, shape, context.num_sms, half);
  auto kernel = cols % Input::kStripCols == 0 ? gemv_kernel<Ring, Second, Input, kRows, kTokens, kDepth, true>
                                              : gemv_kernel<Ring, Second, Input, kRows, kTokens, kDepth, false>;
  if (plan.shared_bytes + kGemvStaticBytes > context.max_shared_bytes) {
    shape.depth = kGemvShallow, shape.slot_bytes = std::max(Ring::kBytes, Second::kBytes);
    plan = plan_gemv(args, shape, context.num_sms, half);
    kernel = gemv_kernel<Ring, Second, Input, kRows, kTokens, kGemvShallow, false>;
  }
  if (plan.shared_bytes + kGemvStaticBytes > context.max_shared_bytes)
    fail(ErrorCode::internal, name, " needs ", plan.shared_bytes + kGemvStaticBytes,
         " bytes of shared memory, more than the table said");
  launch(context, name, kernel, plan.first_block[3], kGemvThreads, plan.shared_bytes, args, plan);
}

/// The smallest instance that holds the tokens.
template <class Ring, class Second, class Input, int kRows, int kDepth>
void launch_gemv_tokens(const char* name, const GemvArgs& args, const LaunchContext& context) {
  if (args.tokens == 1) return launch_gemv<Ring, Second, Input, kRows, 1, kDepth>(name, args, context);
  if (args.tokens == 2) return launch_gemv<Ring, Second, Input, kRows, 2, kDepth>(name, args, context);
  if (args.tokens <= 4) return launch_gemv<Ring, Second, Input, kRows, 4, kDepth>(name, args, context);
  launch_gemv<Ring, Second, Input, kRows, 8, kDepth>(name, args, context);
}

/// The same with fewer instances, for layouts that are seldom met.
template <class Ring, class Second, class Input, int kRows, int kDepth>
void launch_gemv_rare(const char* name, const GemvArgs& args, const LaunchContext& context) {
  if (args.tokens == 1) return launch_gemv<Ring, Second, Input, kRows, 1, kDepth>(name, args, context);
  if (args.tokens == 2) return launch_gemv<Ring, Second, Input, kRows, 2, kDepth>(name, args, context);
  launch_gemv<Ring, Second, Input, kRows, 8, kDepth>(name, args, context);
}

}  // namespace imp::cuda
