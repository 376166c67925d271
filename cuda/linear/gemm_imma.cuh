#pragma once
// Products of 3 to 256 tokens over packed weights on the int8 tensor cores.
//
//   y[t, n] = sum_b d_x[t, b] * (s[n, b] * dot(codes of block b of row n, codes of h[t, b]) - m[n, b] * sum of the
//   latter)
//
// Weights are the 16-row operand of mma.m16n8k32 (m16n8k16 where scales are per 16), tokens the 8-wide one, so that a
// token costs no more than its share of an instruction. A product starts from the bits of 1.5 * 2^23 and its float is
// brought to scale by two FMAs (device/mma_s8.cuh). A block of threads computes tiles of kRows x kTokens, one after
// another. Four warps fill a ring of slabs: kBlocks blocks of each row, 16 bytes a cp.async (the copy engine takes 45
// ns a row), and the tokens' codes beside them in one bulk copy; the first slabs of weights are under way before
// griddepcontrol.wait. The other warps multiply: kWarpsRows x kWarpsTokens of them over the tile, times kWarpsK over
// the blocks of a slab, whose sums meet in shared memory at a tile's end. Blocks may share a tile along k (`splits`):
// sums go to memory, and whoever comes last adds them up in their order.
//
// Bytes moved: packed weights once a tile of tokens; tokens * k * 1.2 from L2 once a tile of rows.
#include "device/bulk_copy.cuh"
#include "device/cp_async.cuh"
#include "device/pdl.cuh"
#include "linear/gemm_imma_kernels.h"
#include "linear/imma_slab.cuh"

namespace imp::cuda {

/// Where a tile of work lies.
struct ImmaUnit {
  int row_tile, token_tile, split, begin, end;  // slabs [begin, end)
  __device__ ImmaUnit(const ImmaArgs& args, int unit) {
    token_tile = unit % args.token_tiles;
    split = unit / args.token_tiles % args.splits;
    row_tile = unit / args.token_tiles / args.splits;
    begin = split * args.slabs / args.splits;
    end = (split + 1) * args.slabs / args.splits;
  }
};

template <class Format, class Tile>
__global__ __launch_bounds__(Tile::kThreads, 1) void gemm_imma_kernel(const __grid_constant__ ImmaArgs args) {
#if __CUDA_ARCH__ >= 900  // the table takes it from there on
  using Shared = ImmaShared<Format, Tile>;
  constexpr int kBlocks = Tile::kBlocks;
  extern __shared__ __align__(128) uint8_t shared[];
  auto* full = reinterpret_cast<uint64_t*>(shared);
  uint64_t* empty = full + kImmaMaxStages;
  int* is_last = reinterpret_cast<int*>(empty + kImmaMaxStages);
  auto* sums = reinterpret_cast<float4*>(shared + kImmaHeader);
  uint8_t* ring = shared + Shared::kFixed;

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int blocks_per_row = args.outputs[0].weight.cols / 32;
  const int units = args.row_tiles * args.token_tiles * args.splits;
  pdl_trigger();
  if (threadIdx.x == 0) {
    for (int s = 0; s < kImmaMaxStages; ++s) {
      mbarrier_init(full + s, kImmaCopyThreads + 1);
      mbarrier_init(empty + s, Tile::kWarps * 32);
    }
    mbarrier_init_fence();
  }
  __syncthreads();

  if (warp >= Tile::kWarps) {  // the copies
    registers_give<56>();
    const int copier = threadIdx.x - Tile::kWarps * 32;
    int stage = 0, passes = 0, started = 0;
    auto copy_tokens = [&](const ImmaUnit& at, int slab, int to) {
      constexpr int kSlabBytes = TokenCodes::slab_bytes(Tile::kTokens, kBlocks);
      const uint8_t* from = args.codes + (static_cast<int64_t>(at.token_tile) * args.slabs + slab) * kSlabBytes;
      mbarrier_arrive_expect(full + to, Shared::kTokens);
      bulk_copy(ring + to * Shared::kStage + Shared::kWeights, from, Shared::kTokens, full + to);
    };
    auto wait_for_tokens = [&] {
      // What was started without tokens gets them now, in the order in which it was started.
      pdl_wait();
      if (copier != 0) return;
      int to = 0;
      for (int u = blockIdx.x; to < started; u += gridDim.x) {
        const ImmaUnit at(args, u);
        for (int slab = at.begin; slab < at.end && to < started; ++slab) copy_tokens(at, slab, to++);
      }
    };
    for (int unit = blockIdx.x; unit < units; unit += gridDim.x) {
      const ImmaUnit at(args, unit);
      const ImmaRows<Tile> rows(args, at.row_tile);
      for (int slab = at.begin; slab < at.end; ++slab) {
        if (passes == 1 && stage == 0 && started == args.stages) wait_for_tokens(), started = -1;
        if (passes > 0) mbarrier_wait(empty + stage, (passes - 1) & 1);
        const int first = slab * kBlocks, count = min(kBlocks, blocks_per_row - first);
        uint8_t* to = ring + stage * Shared::kStage;
        auto copy = [&](int offset, const uint8_t* from) { cp_async_16(to + offset, from); };
#pragma unroll
        for (int r = copier / 8; r < Tile::kRows; r += kImmaCopyThreads / 8) {
          const ImmaRow of = rows.at(r);
          const PackedView& w = args.outputs[of.output].weight;
          Format::copies(w, SlabPart{min(of.row, w.rows - 1), blocks_per_row, first, count}, r * Format::kCodeRow,
                         Tile::kRows * Format::kCodeRow + r * Format::kScaleRow,
                         Tile::kRows * (Format::kCodeRow + Format::kScaleRow) + r * Format::kSuperRow, copier % 8,
                         copy);
        }
        cp_async_arrive(full + stage);
        if (started >= 0) {
          ++started;
        } else if (copier == 0) {
          copy_tokens(at, slab, stage);
        }
        if (++stage == args.stages) stage = 0, ++passes;
      }
    }
    if (started >= 0) wait_for_tokens();
    return;
  }

  registers_take<Tile::kRegisters>();
  const int warp_k = warp / (Tile::kWarpsRows * Tile::kWarpsTokens);
  const int warp_tile = warp % (Tile::kWarpsRows * Tile::kWarpsTokens);
  ImmaLane<Format, Tile> lane_at(warp, lane);
  pdl_wait();
  int stage = 0, passes = 0;
  for (int unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const ImmaUnit at(args, unit);
    const ImmaRows<Tile> rows(args, at.row_tile);
    lane_at.start_tile(args, rows, blocks_per_row, lane);
    float acc[Tile::kRowMmas][Tile::kTokenMmas][4] = {};
    for (int slab = at.begin; slab < at.end; ++slab) {
      mbarrier_wait(full + stage, passes & 1);
      const uint8_t* weights = ring + stage * Shared::kStage;
      const uint8_t* tokens = weights + Shared::kWeights;
      const int first = slab * kBlocks;
      imma_slab<Format, Tile>(acc, weights, tokens, lane_at, first, min(kBlocks, blocks_per_row - first));
      fence_proxy_async();  // the copy engine writes over what ordinary loads have read
      mbarrier_arrive(empty + stage);
      if (++stage == args.stages) stage = 0, ++passes;
    }

    float4* partial = nullptr;
    if (args.splits > 1)
      partial = reinterpret_cast<float4*>(args.partial) +
                (static_cast<int64_t>(at.row_tile) * args.token_tiles + at.token_tile) * args.splits *
                    (Tile::kFragments * 32);
    auto finish = [&](int fragment, const float4& v) {
      if (partial) {
        partial[(at.split * Tile::kFragments + fragment) * 32 + lane] = v;
      } else {
        imma_finish<Tile>(args, rows, at.token_tile, fragment, v);
      }
    };
    if constexpr (Tile::kWarpsK > 1) {
      // The warps' sums over k meet in shared memory, and are added in their order.
#pragma unroll
      for (int f = 0; f < Tile::kRowMmas * Tile::kTokenMmas; ++f) {
        const float(&c)[4] = acc[f / Tile::kTokenMmas][f % Tile::kTokenMmas];
        const int fragment = warp_tile * (Tile::kRowMmas * Tile::kTokenMmas) + f;
        sums[(warp_k * Tile::kFragments + fragment) * 32 + lane] = make_float4(c[0], c[1], c[2], c[3]);
      }
      named_barrier_sync(1, Tile::kWarps * 32);
      for (int fragment = warp; fragment < Tile::kFragments; fragment += Tile::kWarps) {
        float4 total = sums[fragment * 32 + lane];
#pragma unroll
        for (int k = 1; k < Tile::kWarpsK; ++k) {
          const float4 v = sums[(k * Tile::kFragments + fragment) * 32 + lane];
          total.x += v.x, total.y += v.y, total.z += v.z, total.w += v.w;
        }
        finish(fragment, total);
      }
      named_barrier_sync(1, Tile::kWarps * 32);
    } else {
#pragma unroll
      for (int f = 0; f < Tile::kRowMmas * Tile::kTokenMmas; ++f) {
        const float(&c)[4] = acc[f / Tile::kTokenMmas][f % Tile::kTokenMmas];
        finish(warp_tile * (Tile::kRowMmas * Tile::kTokenMmas) + f, make_float4(c[0], c[1], c[2], c[3]));
      }
    }
    if (!partial) continue;
    __threadfence();
    named_barrier_sync(1, Tile::kWarps * 32);
    if (threadIdx.x == 0) {
      int32_t* counter = args.counters + at.row_tile * args.token_tiles + at.token_tile;
      *is_last = atomicAdd(counter, 1) == args.splits - 1;
      if (*is_last) *counter = 0;
      __threadfence();
    }
    named_barrier_sync(1, Tile::kWarps * 32);
    if (!*is_last) continue;
    for (int fragment = warp; fragment < Tile::kFragments; fragment += Tile::kWarps) {
      float4 total = __ldcg(partial + fragment * 32 + lane);
      for (int s = 1; s < args.splits; ++s) {
        const float4 v = __ldcg(partial + (s * Tile::kFragments + fragment) * 32 + lane);
        total.x += v.x, total.y += v.y, total.z += v.z, total.w += v.w;
      }
      imma_finish<Tile>(args, rows, at.token_tile, fragment, total);
    }
  }
#endif
}

/// The shapes, by index (kImmaTiles). The fewer tokens, the longer a slab, so that warps seldom meet.
template <class Do>
void with_imma_tile(int index, const Do& run) {
  switch (index) {
    case 0: return run(ImmaTile<2, 1, 1, 1, 8, 32>{});  // 32 x 8
    case 1: return run(ImmaTile<2, 2, 1, 1, 8, 32>{});  // 32 x 16
    case 2: return run(ImmaTile<2, 4, 1, 1, 8, 32>{});  // 32 x 32
    case 3: return run(ImmaTile<2, 4, 2, 2, 4, 16>{});  // 64 x 64
    default: break;
  }
}

template <template <int> class Format>
const char* imma_reject_with(int index, int64_t max_shared) {
  const char* reason = "no such tile";
  with_imma_tile(index, [&](auto tile) {
    using Tile = decltype(tile);
    using Shared = ImmaShared<Format<Tile::kBlocks>, Tile>;
    reason = Shared::stages(max_shared) < 2 ? "does not fit into shared memory" : nullptr;
  });
  return reason;
}

template <template <int> class Format>
void launch_imma(int index, const LinearArgs& args, const ImmaScratch& scratch, const LaunchContext& context) {
  with_imma_tile(index, [&](auto tile) {
    using Tile = decltype(tile);
    using Use = Format<Tile::kBlocks>;
    using Shared = ImmaShared<Use, Tile>;
    const TokenCodes layout(Tile::kTokens, Tile::kBlocks, static_cast<int>(args.x.cols));
    quantize_tokens(args, layout, scratch.tokens, context);
    ImmaArgs imma = {};
    for (const LinearOutput& output : args.outputs) {
      const PackedView weight = packed_view(output.weight);
      const int rows_a_tile = args.gated ? Tile::kRows / 2 : Tile::kRows;
      if (imma.num_outputs == 0 || !args.gated) imma.row_tiles += (weight.rows + rows_a_tile - 1) / rows_a_tile;
      imma.outputs[imma.num_outputs++] = {weight, output.bias, output.y.data, output.y.row_stride, output.weight.scale};
    }
    imma.accumulate = args.accumulate, imma.gated = args.gated, imma.activation = args.activation;
    imma.y_bf16 = args.outputs[0].y.dtype == DType::bf16;
    imma.codes = static_cast<const uint8_t*>(scratch.tokens);
    imma.tokens = static_cast<int>(args.tokens());
    imma.token_tiles = (imma.tokens + Tile::kTokens - 1) / Tile::kTokens;
    imma.slabs = layout.slabs;
    imma.stages = Shared::stages(context.max_shared_bytes);
    const int tiles = imma.row_tiles * imma.token_tiles;
    imma.splits = imma_splits(tiles, layout.slabs, Tile::kRows * Tile::kTokens * int64_t{4}, scratch, context.num_sms);
    imma.partial = scratch.partial, imma.counters = scratch.counters;
    const int grid = std::min(tiles * imma.splits, context.num_sms);
    const int shared = Shared::kFixed + imma.stages * Shared::kStage;
    launch(context, "gemm_imma", gemm_imma_kernel<Use, Tile>, grid, Tile::kThreads, shared, imma);
  });
}

template <template <int> class Format>
constexpr ImmaKernel imma_kernel(PackedLayout layout, const ImmaTraits& traits = {}) {
  return {layout, traits, imma_reject_with<Format>, launch_imma<Format>};
}

}  // namespace imp::cuda
