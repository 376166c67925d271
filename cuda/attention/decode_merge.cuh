#pragma once
#include <cuda_bf16.h>

#include "attention/attention_params.cuh"
#include "attention/decode_params.h"
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

/// Floats that a block leaves behind for the last one: its slice, then (max, sum) of every row.
__host__ __device__ constexpr int partial_block_floats(int rows, int head_dim, int cluster) {
  return slice_floats(rows, head_dim, cluster) + 2 * rows;
}

/// Adds up the warps of a block, then the blocks of its cluster (`mates` of them, each answering for one slice of the
/// output), then the `num_clusters` clusters of this (sequence, kv head) through p.partial, where the last to arrive
/// for a slice adds up all in their order: results do not depend on timing.
///   warp_rows: [warp] of `warp_stride` floats, rows of kHeadDim + 4; warp_stats[warp][kRows] = (max, sum).
template <int kHeadDim, int kRows, int kWarps>
__device__ __forceinline__ void merge_parts(const DecodeOutput<kHeadDim>& output, const float* warp_rows,
                                            int warp_stride, const float2 (*warp_stats)[kRows], float* received,
                                            int rank, int mates, int cluster_index, int num_clusters, int64_t pair) {
  constexpr int kThreads = kWarps * 32, kUnits = kHeadDim / 4;
  const DecodeParams& p = output.p;
  const int num_rows = output.num_rows, units = output.units();
  const auto of_block = [&](int unit) {
    const int row = unit / kUnits;
    const float* at = warp_rows + row * (kHeadDim + 4) + unit % kUnits * 4;
    return combine(
        kWarps, [&](int w) { return warp_stats[w][row]; },
        [&](int w) { return *reinterpret_cast<const float4*>(at + w * warp_stride); });
  };
  const auto no_value = [](int) { return make_float4(0, 0, 0, 0); };
  const auto stat_of_block = [&](int row) {
    const DecodePart part = combine(kWarps, [&](int w) { return warp_stats[w][row]; }, no_value);
    return make_float2(part.top, part.sum);
  };
  const int slice_units = slice_floats(num_rows, kHeadDim, mates) / 4;
  const int first_unit = rank * slice_units, end_unit = min(first_unit + slice_units, units);
  auto* stats = reinterpret_cast<float2*>(received);                      // [mates][kRows]
  auto* parts = reinterpret_cast<float4*>(received + 2 * mates * kRows);  // [mates][slice_units]
  if (mates > 1) {
    cluster_wait();  // for the arrival at the kernel's start: all blocks are running
    for (int unit = threadIdx.x; unit < units; unit += kThreads) {
      const DecodePart part = of_block(unit);
      const int to = unit / slice_units;
      cluster_store(cluster_address(parts + rank * slice_units + unit - to * slice_units, to), part.value);
    }
    for (int i = threadIdx.x; i < mates * num_rows; i += kThreads)
      cluster_store(cluster_address(stats + rank * kRows + i % num_rows, i / num_rows), stat_of_block(i % num_rows));
    cluster_arrive();
    cluster_wait();
  }
  const auto of_cluster = [&](int unit) {
    if (mates == 1) return of_block(unit);
    const int row = unit / kUnits;
    return combine(
        mates, [&](int i) { return stats[i * kRows + row]; },
        [&](int i) { return parts[i * slice_units + unit - first_unit]; });
  };
  if (num_clusters == 1) {
    for (int unit = first_unit + threadIdx.x; unit < end_unit; unit += kThreads) output.store(unit, of_cluster(unit));
    return;
  }

  __shared__ bool is_last;
  const int part_floats = partial_block_floats(num_rows, kHeadDim, mates);
  const int64_t block_floats = partial_block_floats(kRows, kHeadDim, mates), stride = mates * block_floats;
  float* all = p.partial + (pair * gridDim.x + rank) * block_floats;  // sequences may use fewer blocks than they have
  float* own = all + cluster_index * stride;
  auto* own_stats = reinterpret_cast<float2*>(own + part_floats - 2 * num_rows);
  for (int unit = first_unit + threadIdx.x; unit < end_unit; unit += kThreads)
    *reinterpret_cast<float4*>(own + (unit - first_unit) * 4) = of_cluster(unit).value;
  for (int row = threadIdx.x; row < num_rows; row += kThreads) {
    if (mates == 1) {
      own_stats[row] = stat_of_block(row);
      continue;
    }
    const DecodePart part = combine(mates, [&](int i) { return stats[i * kRows + row]; }, no_value);
    own_stats[row] = make_float2(part.top, part.sum);
  }
  __threadfence();
  __syncthreads();
  int32_t* counter = p.counters + pair * mates + rank;
  if (threadIdx.x == 0) is_last = atomicAdd(counter, 1) == num_clusters - 1;
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  for (int unit = first_unit + threadIdx.x; unit < end_unit; unit += kThreads) {
    const int row = unit / kUnits;
    const float* stat_at = all + part_floats - 2 * num_rows + 2 * row;
    output.store(unit,
                 combine(
                     num_clusters, [&](int c) { return __ldcg(reinterpret_cast<const float2*>(stat_at + c * stride)); },
                     [&](int c) {
                       return __ldcg(reinterpret_cast<const float4*>(all + c * stride + (unit - first_unit) * 4));
                     }));
  }
  if (threadIdx.x == 0) *counter = 0;  // ready for the next launch
}

}  // namespace imp::cuda
