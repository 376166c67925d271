#pragma once
#include <cuda_bf16.h>

#include "attention/attention_params.cuh"
#include "attention/decode_params.h"
#include "device/atomic.cuh"
#include "device/cluster.cuh"
#include "device/math.cuh"

namespace imp::cuda {

/// Four neighbouring floats of an output row, unnormalised, with the row's maximum and sum over the same keys.
struct DecodePart {
  float4 value;
  float top, sum;
};

/// Adds up parts 0 .. n - 1 in their order. stat(i) = (max, sum); parts that saw no key are not read.
template <class Stat, class Value>
__device__ __forceinline__ DecodePart combine(int n, const Stat& stat, const Value& value) {
  DecodePart part = {make_float4(0, 0, 0, 0), -INFINITY, 0};
  for (int i = 0; i < n; ++i) part.top = fmaxf(part.top, stat(i).x);
  for (int i = 0; i < n; ++i) {
    const float2 s = stat(i);
    if (s.x == -INFINITY) continue;
    const float weight = fast_exp2((s.x - part.top) * kLog2e);
    const float4 x = value(i);
    part.value.x += weight * x.x, part.value.y += weight * x.y;
    part.value.z += weight * x.z, part.value.w += weight * x.w;
    part.sum += weight * s.y;
  }
  return part;
}

/// Who adds up what, and where the result goes. `unit`: four floats of [num_rows][kHeadDim]; eight units in a row (32
/// floats) always stay in one block and in eight neighbouring lanes.
template <int kHeadDim>
struct DecodeOutput {
  const DecodeParams& p;
  const SequenceSpan& span;
  int kv_head, num_rows;

  __device__ __forceinline__ int units() const { return num_rows * (kHeadDim / 4); }

  /// The end of every path: the only place that writes the output.
  __device__ __forceinline__ void store(int unit, const DecodePart& part) const {
    const int row = unit / (kHeadDim / 4), dim = unit % (kHeadDim / 4) * 4;
    const int token = span.num_tokens == 1 ? 0 : row / p.group;
    const int64_t at =
        (span.first_token + token) * p.out_stride + (kv_head * p.group + row - token * p.group) * kHeadDim + dim;
    const float inverse = 1 / part.sum;
    const float4 x =
        make_float4(part.value.x * inverse, part.value.y * inverse, part.value.z * inverse, part.value.w * inverse);
    if (!p.out_bf16) {
      *reinterpret_cast<float4*>(static_cast<float*>(p.out) + at) = x;
      return;
    }
    auto* out = reinterpret_cast<__nv_bfloat162*>(static_cast<__nv_bfloat16*>(p.out) + at);
    out[0] = __floats2bfloat162_rn(x.x, x.y), out[1] = __floats2bfloat162_rn(x.z, x.w);
  }
};

/// The parts that blocks leave in memory for the last one: a block's output rows, then (max, sum) of each.
template <int kHeadDim>
struct PartView {
  float* first;
  int64_t stride;  // floats from part to part
  int num_rows;

  __device__ __forceinline__ float* value(int part, int unit) const { return first + part * stride + unit * 4; }
  __device__ __forceinline__ float2* stat(int part, int row) const {
    return reinterpret_cast<float2*>(first + part * stride + num_rows * kHeadDim) + row;
  }
};

/// Adds up the warps of a block.
///   warp_rows: [warp] of `warp_stride` floats, rows of kHeadDim + 4; warp_stats[warp][kRows] = (max, sum).
template <int kHeadDim, int kRows, int kWarps>
struct BlockParts {
  const float* warp_rows;
  int warp_stride;
  const float2 (*warp_stats)[kRows];

  __device__ __forceinline__ DecodePart unit(int unit) const {
    const int row = unit / (kHeadDim / 4);
    const float* at = warp_rows + row * (kHeadDim + 4) + unit % (kHeadDim / 4) * 4;
    return combine(
        kWarps, [&](int w) { return warp_stats[w][row]; },
        [&](int w) { return *reinterpret_cast<const float4*>(at + w * warp_stride); });
  }
  __device__ __forceinline__ float2 stat(int row) const {
    const DecodePart part =
        combine(kWarps, [&](int w) { return warp_stats[w][row]; }, [](int) { return make_float4(0, 0, 0, 0); });
    return make_float2(part.top, part.sum);
  }
};

/// Adds up the `mates` blocks of a cluster through its shared memory: each block answers for one slice of the output.
template <int kHeadDim, int kRows, int kWarps>
__device__ __forceinline__ void merge_cluster(const DecodeOutput<kHeadDim>& output,
                                              const BlockParts<kHeadDim, kRows, kWarps>& block, float* received,
                                              int rank, int mates) {
  constexpr int kThreads = kWarps * 32;
  const int units = output.units(), slice_units = slice_floats(output.num_rows, kHeadDim, mates) / 4;
  auto* stats = reinterpret_cast<float2*>(received);                      // [mates][kRows]
  auto* parts = reinterpret_cast<float4*>(received + 2 * mates * kRows);  // [mates][slice_units]
  cluster_wait();  // for the arrival at the kernel's start: all blocks are running
  for (int unit = threadIdx.x; unit < units; unit += kThreads) {
    const int to = unit / slice_units;
    cluster_store(cluster_address(parts + rank * slice_units + unit - to * slice_units, to), block.unit(unit).value);
  }
  for (int i = threadIdx.x; i < mates * output.num_rows; i += kThreads)
    cluster_store(cluster_address(stats + rank * kRows + i % output.num_rows, i / output.num_rows),
                  block.stat(i % output.num_rows));
  cluster_arrive();
  cluster_wait();
  const int first = rank * slice_units, end = min(first + slice_units, units);
  for (int unit = first + threadIdx.x; unit < end; unit += kThreads) {
    const int row = unit / (kHeadDim / 4);
    output.store(unit, combine(
                           mates, [&](int i) { return stats[i * kRows + row]; },
                           [&](int i) { return parts[i * slice_units + unit - first]; }));
  }
}

/// Parts [begin, end) of one unit. What eight parts need is on the way together: a thread that asks for one after the
/// other spends a memory's round trip on each, twice.
template <int kHeadDim>
__device__ __forceinline__ DecodePart combine_in_memory(const PartView<kHeadDim>& parts, int begin, int end, int unit) {
  constexpr int kAtOnce = 8;
  const int row = unit / (kHeadDim / 4);
  DecodePart sum = {make_float4(0, 0, 0, 0), -INFINITY, 0};
  for (int first = begin; first < end; first += kAtOnce) {
    float2 stats[kAtOnce];
    float4 values[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int part = min(first + i, end - 1);
      stats[i] = __ldcg(parts.stat(part, row));
      values[i] = __ldcg(reinterpret_cast<const float4*>(parts.value(part, unit)));
    }
    float top = sum.top;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i >= end) stats[i].x = -INFINITY;
      top = fmaxf(top, stats[i].x);
    }
    const float base = top == -INFINITY ? 0 : top;  // none has seen a key: all stay zero
    const auto weigh = [&](float4& value, float& total, float weight) {
      value.x *= weight, value.y *= weight, value.z *= weight, value.w *= weight, total *= weight;
    };
    weigh(sum.value, sum.sum, fast_exp2((sum.top - base) * kLog2e));
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      weigh(values[i], stats[i].y, fast_exp2((stats[i].x - base) * kLog2e));
      sum.value.x += values[i].x, sum.value.y += values[i].y, sum.value.z += values[i].z, sum.value.w += values[i].w;
      sum.sum += stats[i].y;
    }
    sum.top = top;
  }
  return sum;
}

/// Adds up the `splits` blocks of a (sequence, kv head) through memory: the last to arrive takes all parts, in their
/// order, so that results do not depend on timing. Where threads are left over, groups of them take neighbouring parts
/// and add up in shared memory (`scratch`: 24 bytes a thread).
template <int kHeadDim, int kRows, int kWarps>
__device__ __forceinline__ void merge_in_memory(const DecodeOutput<kHeadDim>& output,
                                                const BlockParts<kHeadDim, kRows, kWarps>& block,
                                                const PartView<kHeadDim>& parts, int32_t* counter, int split,
                                                int splits, void* scratch) {
  constexpr int kThreads = kWarps * 32;
  __shared__ bool is_last;
  const int units = output.units();
  for (int unit = threadIdx.x; unit < units; unit += kThreads)
    *reinterpret_cast<float4*>(parts.value(split, unit)) = block.unit(unit).value;
  for (int row = threadIdx.x; row < output.num_rows; row += kThreads) *parts.stat(split, row) = block.stat(row);
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = arrive_at_counter(counter) == splits - 1;
    if (is_last) *counter = 0;  // ready for the next launch
  }
  __syncthreads();
  if (!is_last) return;
  const int groups = min(max(kThreads / units, 1), splits);
  if (groups == 1) {
    for (int unit = threadIdx.x; unit < units; unit += kThreads)
      output.store(unit, combine_in_memory(parts, 0, splits, unit));
    return;
  }
  auto* values = static_cast<float4*>(scratch);
  auto* stats = reinterpret_cast<float2*>(values + kThreads);
  const int group = threadIdx.x / units, unit = threadIdx.x % units;
  if (group < groups) {
    const DecodePart part = combine_in_memory(parts, group * splits / groups, (group + 1) * splits / groups, unit);
    values[threadIdx.x] = part.value, stats[threadIdx.x] = make_float2(part.top, part.sum);
  }
  __syncthreads();
  if (group == 0)
    output.store(unit, combine(
                           groups, [&](int g) { return stats[g * units + unit]; },
                           [&](int g) { return values[g * units + unit]; }));
}

}  // namespace imp::cuda
