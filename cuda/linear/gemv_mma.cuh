#pragma once
// A matrix times 2 to 16 vectors over packed weights on the int8 tensor cores (linear/gemv_mma.h).
//
//   y[t, n] = sum_b d[t, b] * (s[n, b] * dot(codes of block b of row n, codes of h[t, b]) - m[n, b] * sum of the
//   latter) * scale + bias
//
// Mapping: a block of threads an SM has a contiguous share of the rows of one output, in groups of 16: the tall operand
// of mma.m16n8k32; tokens are the other. The groups' units of k are laid in a row and divided evenly among 8 warps;
// each has a ring in shared memory that it fills for itself with cp.async. The tokens' codes (token_pairs.h) come in a
// few bulk copies, begun at another place by each block, so that not all want the same line at once. A warp's sums of a
// group go to shared memory and are added up in the order of k in the end.
//
// A block takes most of the shared memory, so that one lands on every SM, and leaves room (half of the registers too)
// for the kernel that quantises the tokens of the next product. That one waits there already; while it works, the next
// blocks fill their rings.
//
// A product starts from the bits of 1.5 * 2^23 and its float is brought to scale by two FMAs (device/mma_s8.cuh).
//
// Bytes moved: the weights once; the tokens' codes once a block, from L2.
#include <cuda_runtime.h>

#include <algorithm>
#include <type_traits>

#include "device/activation.cuh"
#include "device/bulk_copy.cuh"
#include "device/pdl.cuh"
#include "linear/gemv_mma.h"
#include "linear/gemv_mma_formats.cuh"
#include "linear/gemv_mma_plan.h"
#include "linear/token_pairs.h"
#include "runtime/launch.h"

namespace imp::cuda {

inline constexpr int kGemvMmaThreads = kGemvMmaWarps * 32;
inline constexpr int kTokenPiece = 4096;  // bytes of a bulk copy

/// acc += a stage's weights times their tokens. `first` is the row's first block here, `blocks` all it has.
template <class Format, int kPlanes, int kTiles>
__device__ __forceinline__ void multiply_stage(float (&acc)[kTiles][4], const uint8_t* stage, const uint8_t* tokens,
                                               int first, int blocks, int lane) {
  constexpr int kPair = token_pair_bytes(kPlanes);
#pragma unroll
  for (int eight = 0; eight < Format::kBlocks / 8; ++eight) {
    if (eight > 0 && first + eight * 8 >= blocks) return;
    typename Format::Scales upper, lower;
    upper.load(stage + lane / 4 * Format::kRow, eight, first);
    lower.load(stage + (lane / 4 + 8) * Format::kRow, eight, first);
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      uint32_t a[2][4];
      Format::load_codes(a, static_cast<uint32_t>(__cvta_generic_to_shared(stage)), eight * 4 + p, lane);
      const RowScale up[2] = {upper.get(p * 2), upper.get(p * 2 + 1)};
      const RowScale low[2] = {lower.get(p * 2), lower.get(p * 2 + 1)};
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const uint8_t* pair = tokens + ((eight * 4 + p) * kTiles + t) * kPair;
        const uint4 codes = *reinterpret_cast<const uint4*>(pair + lane * 16);
        const float4* floats = reinterpret_cast<const float4*>(pair + 512) + lane % 4;
        const float4 scales = floats[0];
        float4 sums = {}, second_sums = {};
        if constexpr (Format::kMin) sums = floats[4];
        if constexpr (Format::kMin && Format::kPerSixteen) {
          const float4 all = sums;
          sums = floats[8];
          second_sums = make_float4(all.x - sums.x, all.y - sums.y, all.z - sums.z, all.w - sums.w);
        }
        float(&sum)[4] = acc[t];
        auto add = [&](const float(&c)[4], float dx, float dy, float s_up, float s_low) {
          sum[0] = fmaf(s_up, fmaf(c[0], dx, -kMagic * dx), sum[0]);
          sum[1] = fmaf(s_up, fmaf(c[1], dy, -kMagic * dy), sum[1]);
          sum[2] = fmaf(s_low, fmaf(c[2], dx, -kMagic * dx), sum[2]);
          sum[3] = fmaf(s_low, fmaf(c[3], dy, -kMagic * dy), sum[3]);
        };
        auto add_min = [&](float x, float y, float m_up, float m_low) {
          sum[0] = fmaf(m_up, x, sum[0]), sum[1] = fmaf(m_up, y, sum[1]);
          sum[2] = fmaf(m_low, x, sum[2]), sum[3] = fmaf(m_low, y, sum[3]);
        };
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float dx = i ? scales.z : scales.x, dy = i ? scales.w : scales.y;
          const uint32_t b0 = i ? codes.z : codes.x, b1 = i ? codes.w : codes.y;
          float c[4];
          if constexpr (Format::kPerSixteen) {
            float second[4];
            mma_s8_k16(c, a[i][0], a[i][1], b0);
            mma_s8_k16(second, a[i][2], a[i][3], b1);
            add(second, dx, dy, up[i].second_s, low[i].second_s);
          } else {
            mma_s8_k32(c, a[i], b0, b1);
          }
          add(c, dx, dy, up[i].s, low[i].s);
          if constexpr (Format::kMin) add_min(i ? sums.z : sums.x, i ? sums.w : sums.y, up[i].m, low[i].m);
          if constexpr (Format::kMin && Format::kPerSixteen)
            add_min(i ? second_sums.z : second_sums.x, i ? second_sums.w : second_sums.y, up[i].second_m,
                    low[i].second_m);
        }
      }
    }
  }
}

template <class Format, int kPlanes, int kTiles>
__device__ __forceinline__ void run_gemv_mma(const GemvArgs& args, const GemvMmaPlan& plan, const GemvShare& share,
                                             uint8_t* shared, uint64_t* barrier, uint32_t* parts) {
  constexpr int kBlocks = Format::kBlocks, kStage = 16 * Format::kRow;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const GemvOutput& out = args.outputs[share.output];
  const int blocks = out.weight.cols / 32, units = (blocks + kBlocks - 1) / kBlocks;
  const int groups = ((args.gated ? share.rows * 2 : share.rows) + 15) / 16;
  const int steps = groups * units, step_end = (warp + 1) * steps / kGemvMmaWarps;
  uint8_t* const ring = shared + warp * plan.depth * kStage;
  uint8_t* const tokens = shared + plan.tokens_at;
  uint8_t* const sums = shared + plan.sums_at;

  // Of a gated pair, rows of the gate are the upper 8 of a group and the same of the up the lower.
  int step = warp * steps / kGemvMmaWarps, ahead = step;
  int group = step / units, unit = step - group * units, ahead_group = group, ahead_unit = unit;
  auto copy_step = [&](uint8_t* to) {
    if (ahead < step_end) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int of = args.gated ? ahead_group * 8 : ahead_group * 16 + half * 8;
        Format::copy(to + half * 8 * Format::kRow, args.gated ? args.outputs[half].weight : out.weight,
                     min(share.first + of, out.weight.rows - 1), share.rows - of, ahead_unit * kBlocks, lane);
      }
      if (++ahead_unit == units) ahead_unit = 0, ++ahead_group;
      ++ahead;
    }
    cp_async_commit();
  };

  pdl_trigger();
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    mbarrier_init_fence();
  }
  for (int i = threadIdx.x; i < groups; i += kGemvMmaThreads) parts[i] = 0;
  for (int s = 0; s < plan.depth; ++s) copy_step(ring + s * kStage);
  pdl_wait();
  if (threadIdx.x == 0) {
    const int bytes = blocks / 2 * kTiles * token_pair_bytes(kPlanes), pieces = (bytes + kTokenPiece - 1) / kTokenPiece;
    mbarrier_arrive_expect(barrier, bytes);
    for (int i = 0, piece = blockIdx.x % pieces; i < pieces; ++i) {
      const int at = piece * kTokenPiece;
      bulk_copy(tokens + at, plan.tokens + at, min(kTokenPiece, bytes - at), barrier);
      if (++piece == pieces) piece = 0;
    }
  }

  // The residual that results will be added to: on its way while the product is computed.
  float before[4] = {};
  const int fragments = groups * kTiles, own_row = lane / 4, own_token = lane % 4 * 2;
  if (args.accumulate && warp < fragments) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = warp / kTiles * 16 + own_row + i / 2 * 8, token = warp % kTiles * 8 + own_token + i % 2;
      if (row < share.rows && token < args.tokens) before[i] = out.y[token * out.y_stride + share.first + row];
    }
  }
  __syncthreads();  // the barrier and parts are there
  mbarrier_wait(barrier, 0);

  uint8_t* slot = ring;
  while (step < step_end) {
    float acc[kTiles][4] = {};
    const int until = min(step_end, step + units - unit);
    for (; step < until; ++step, ++unit) {
      cp_async_wait(plan.depth - 1);
      __syncwarp();  // other lanes' copies
      multiply_stage<Format, kPlanes, kTiles>(
          acc, slot, tokens + unit * (kBlocks / 2 * kTiles * token_pair_bytes(kPlanes)), unit * kBlocks, blocks, lane);
      __syncwarp();  // all have read the slot
      copy_step(slot);
      slot = slot == ring + (plan.depth - 1) * kStage ? ring : slot + kStage;
    }
    // From one of these to the next, group or warp are one more, or both: each has a place of its own.
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
      *reinterpret_cast<float4*>(sums + ((group + warp) * kTiles + t) * kTileSums + lane * 16) =
          make_float4(acc[t][0], acc[t][1], acc[t][2], acc[t][3]);
    if (lane == 0) atomicOr(parts + group, 1u << warp);
    ++group, unit = 0;
  }
  __syncthreads();

  for (int fragment = warp; fragment < fragments; fragment += kGemvMmaWarps) {
    const int at_group = fragment / kTiles, tile = fragment % kTiles, token = tile * 8 + own_token;
    float4 v = {};
    for (uint32_t left = parts[at_group]; left; left &= left - 1) {
      const int w = __ffs(static_cast<int>(left)) - 1;
      const float4 part =
          *reinterpret_cast<const float4*>(sums + ((at_group + w) * kTiles + tile) * kTileSums + lane * 16);
      v.x += part.x, v.y += part.y, v.z += part.z, v.w += part.w;
    }
    const float found[4] = {v.x, v.y, v.z, v.w};
    auto result = [&](const GemvOutput& from, int row, float sum) {
      return sum * from.scale + (from.bias ? from.bias[row] : 0);
    };
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (token + i % 2 >= args.tokens) continue;
      float* y = out.y + (token + i % 2) * out.y_stride;
      if (args.gated) {
        const int local = at_group * 8 + own_row, row = share.first + local;
        if (i >= 2 || local >= share.rows) continue;
        y[row] =
            activate_device(args.activation, result(out, row, found[i])) * result(args.outputs[1], row, found[i + 2]);
      } else {
        const int local = at_group * 16 + own_row + i / 2 * 8, row = share.first + local;
        if (local >= share.rows) continue;
        const float value = result(out, row, found[i]);
        y[row] = args.accumulate ? (fragment == warp ? before[i] : y[row]) + value : value;
      }
    }
  }
}

/// `Second` is for outputs whose layout is not that of the first.
template <class Format, class Second, int kTiles>
__global__ __launch_bounds__(kGemvMmaThreads, 2) void gemv_mma_kernel(const __grid_constant__ GemvArgs args,
                                                                      const __grid_constant__ GemvMmaPlan plan) {
#if __CUDA_ARCH__ >= 900  // the table takes it from there on
  constexpr int kPlanes = Format::kPlanes > Second::kPlanes ? Format::kPlanes : Second::kPlanes;
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ uint64_t barrier;
  __shared__ uint32_t parts[kGemvMmaMostGroups];  // of each group: the warps that have sums of it
  const GemvShare share = gemv_share(plan.rows, blockIdx.x);
  if constexpr (!std::is_same_v<Format, Second>) {
    if (args.outputs[share.output].second_layout)
      return run_gemv_mma<Second, kPlanes, kTiles>(args, plan, share, shared, &barrier, parts);
  }
  run_gemv_mma<Format, kPlanes, kTiles>(args, plan, share, shared, &barrier, parts);
#endif
}

template <class Format, class Second, int kTiles>
void launch_gemv_mma_tiles(const LinearArgs& linear, const GemvArgs& args, const ImmaScratch& scratch,
                           const LaunchContext& context) {
  constexpr int kPlanes = Format::kPlanes > Second::kPlanes ? Format::kPlanes : Second::kPlanes;
  const GemvMmaShape shape = {.stage_bytes = std::max(Format::kRow, Second::kRow) * 16,
                              .pair_bytes = token_pair_bytes(kPlanes) * kTiles,
                              .row_bytes = {Format::kRow * 8 / Format::kBlocks, Second::kRow * 8 / Second::kBlocks},
                              .token_tiles = kTiles};
  GemvMmaPlan plan = plan_gemv_mma(args, shape, context.num_sms, context.max_shared_bytes);
  plan.tokens = static_cast<const uint8_t*>(scratch.tokens);
  quantize_token_pairs(linear, kTiles, kPlanes, scratch.tokens, context);
  launch(context, "gemv_mma", gemv_mma_kernel<Format, Second, kTiles>, static_cast<unsigned>(plan.rows.first_block[3]),
         kGemvMmaThreads, static_cast<size_t>(plan.shared_bytes), args, plan);
}

template <class Format, class Second = Format>
void launch_gemv_mma(const LinearArgs& linear, const GemvArgs& args, const ImmaScratch& scratch,
                     const LaunchContext& context) {
  if (args.tokens <= 8) return launch_gemv_mma_tiles<Format, Second, 1>(linear, args, scratch, context);
  launch_gemv_mma_tiles<Format, Second, 2>(linear, args, scratch, context);
}

}  // namespace imp::cuda
