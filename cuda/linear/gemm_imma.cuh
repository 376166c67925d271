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
// the blocks of a slab, whose sums meet in shared memory at a tile's end.  Blocks may share a tile along k (`splits`):
// sums go to memory, and whoever comes last adds them up in their order.
//
// Bytes moved: packed weights once a tile of tokens; tokens * k * 1.2 from L2 once a tile of rows.
#include <cuda_bf16.h>

#include <algorithm>

#include "device/activation.cuh"
#include "device/bulk_copy.cuh"
#include "device/cp_async.cuh"
#include "device/pdl.cuh"
#include "device/wgmma.cuh"
#include "linear/gemm_imma.h"
#include "linear/imma_formats.cuh"
#include "linear/token_codes.h"

namespace imp::cuda {

struct ImmaOutput {
  PackedView weight;
  const float* bias;
  void* y;
  int64_t y_stride;
  float scale;
};

struct ImmaArgs {
  ImmaOutput outputs[3];
  int num_outputs;
  bool accumulate, gated, y_bf16;
  Activation activation;
  const uint8_t* codes;
  int tokens, token_tiles, row_tiles, splits, slabs, stages;
  float* partial;
  int32_t* counters;
};

inline constexpr int kImmaCopyThreads = 128;

template <int kRowMmas_, int kTokenMmas_, int kWarpsRows_, int kWarpsTokens_, int kWarpsK_, int kBlocks_>
struct ImmaTile {
  static constexpr int kRowMmas = kRowMmas_, kTokenMmas = kTokenMmas_;  // of a warp
  static constexpr int kWarpsRows = kWarpsRows_, kWarpsTokens = kWarpsTokens_, kWarpsK = kWarpsK_;
  static constexpr int kBlocks = kBlocks_;
  static constexpr int kRows = 16 * kRowMmas * kWarpsRows, kTokens = 8 * kTokenMmas * kWarpsTokens;
  static constexpr int kWarps = kWarpsRows * kWarpsTokens * kWarpsK;  // that multiply
  static constexpr int kThreads = kWarps * 32 + kImmaCopyThreads;
  static constexpr int kBlocksOfWarp = kBlocks / kWarpsK;
  static constexpr int kFragments = kWarpsRows * kWarpsTokens * kRowMmas * kTokenMmas;  // 16 x 8 pieces of a tile
  static constexpr int kRegisters = kWarps == 8 ? 224 : 104;  // of a multiplying thread; a copying one has 56
  static_assert(kWarps == 8 || kWarps == 16);
  static_assert(kBlocks % kWarpsK == 0 && 32 % kBlocks == 0 && kBlocks >= 8);
};

inline constexpr int kImmaMaxStages = 8, kImmaHeader = 256;

/// Bytes of shared memory, part by part.
template <class Format, class Tile>
struct ImmaShared {
  static constexpr int kWeights = Tile::kRows * (Format::kCodeRow + Format::kScaleRow + Format::kSuperRow);
  static constexpr int kTokenCodes = TokenCodes::code_bytes(Tile::kTokens, Tile::kBlocks);
  static constexpr int kTokens = kTokenCodes + Format::kPlanes * Tile::kBlocks * Tile::kTokens * 4;
  static constexpr int kSums = Tile::kWarpsK > 1 ? Tile::kWarpsK* Tile::kRows* Tile::kTokens * 4 : 0;
  static constexpr int kStage = kWeights + kTokens, kFixed = kImmaHeader + kSums;
  static int stages(int64_t max_shared) {
    return static_cast<int>(std::min<int64_t>(kImmaMaxStages, (max_shared - kFixed) / kStage));
  }
};

/// A row of a tile: which output, and which of its rows.
struct ImmaRow {
  int output, row;
};

template <class Tile>
struct ImmaRows {
  int output, first;
  bool gated;
  __device__ ImmaRows(const ImmaArgs& args, int tile) : output(0), first(tile * Tile::kRows), gated(args.gated) {
    if (gated) {
      first /= 2;
      return;
    }
    while (output + 1 < args.num_outputs) {
      const int rows = (args.outputs[output].weight.rows + Tile::kRows - 1) / Tile::kRows * Tile::kRows;
      if (first < rows) return;
      first -= rows;
      ++output;
    }
  }
  /// Gated: 8 rows of the gate, then the same 8 of the up, so that one thread gets both.
  __device__ ImmaRow at(int local) const {
    if (gated) return {local / 8 % 2, first + local / 16 * 8 + local % 8};
    return {output, first + local};
  }
};

__device__ __forceinline__ void imma_store(const ImmaArgs& args, const ImmaRow& at, int token, float value) {
  const ImmaOutput& out = args.outputs[at.output];
  if (token >= args.tokens || at.row >= out.weight.rows) return;
  float* y = static_cast<float*>(out.y) + token * out.y_stride + at.row;
  value = value * out.scale + (out.bias ? out.bias[at.row] : 0);
  *y = args.accumulate ? *y + value : value;
}
__device__ __forceinline__ void imma_store_gated(const ImmaArgs& args, int row, int token, float g, float u) {
  const ImmaOutput &gate = args.outputs[0], &up = args.outputs[1];
  if (token >= args.tokens || row >= gate.weight.rows) return;
  g = g * gate.scale + (gate.bias ? gate.bias[row] : 0);
  u = u * up.scale + (up.bias ? up.bias[row] : 0);
  const float value = activate_device(args.activation, g) * u;
  const int64_t i = token * gate.y_stride + row;
  if (args.y_bf16) {
    static_cast<__nv_bfloat16*>(gate.y)[i] = __float2bfloat16(value);
  } else {
    static_cast<float*>(gate.y)[i] = value;
  }
}

/// The sums that a lane has of fragment `fragment` (16 rows x 8 tokens), to the outputs.
template <class Tile>
__device__ __forceinline__ void imma_finish(const ImmaArgs& args, const ImmaRows<Tile>& rows, int token_tile,
                                            int fragment, const float4& v) {
  const int lane = threadIdx.x % 32;
  const int token_mma = fragment % Tile::kTokenMmas, row_mma = fragment / Tile::kTokenMmas % Tile::kRowMmas;
  const int warp = fragment / (Tile::kTokenMmas * Tile::kRowMmas);
  const int local = (warp / Tile::kWarpsTokens * Tile::kRowMmas + row_mma) * 16 + lane / 4;
  const int token =
      token_tile * Tile::kTokens + (warp % Tile::kWarpsTokens * Tile::kTokenMmas + token_mma) * 8 + lane % 4 * 2;
  if (args.gated) {
    const int row = rows.at(local).row;
    imma_store_gated(args, row, token, v.x, v.z);
    imma_store_gated(args, row, token + 1, v.y, v.w);
  } else {
    imma_store(args, rows.at(local), token, v.x);
    imma_store(args, rows.at(local), token + 1, v.y);
    imma_store(args, rows.at(local + 8), token, v.z);
    imma_store(args, rows.at(local + 8), token + 1, v.w);
  }
}

/// Where a lane of a multiplying warp finds its things in a stage, and what its rows' windows begin with.
template <class Format, class Tile>
struct ImmaLane {
  static constexpr int kTokenRow = Tile::kBlocks * 32 + 16;
  int row0, token0, first_block;  // of the warp
  int codes, pairs, tokens,
      floats;  // offsets of the warp's first block; the first two in weights, the others in tokens
  int scales[Tile::kRowMmas][2], super_phase[Tile::kRowMmas][2];

  __device__ ImmaLane(int warp, int lane) {
    const int warp_tile = warp % (Tile::kWarpsRows * Tile::kWarpsTokens);
    row0 = warp_tile / Tile::kWarpsTokens * Tile::kRowMmas * 16;
    token0 = warp_tile % Tile::kWarpsTokens * Tile::kTokenMmas * 8;
    first_block = warp / (Tile::kWarpsRows * Tile::kWarpsTokens) * Tile::kBlocksOfWarp;
    codes = Format::code_offset(row0, lane) + first_block * Format::kCodeBytes;
    pairs = row0 * Format::kCodeRow + first_block * Format::kPairBytes;
    const int token = lane % 8 + (Tile::kTokenMmas > 1 ? lane / 16 * 8 : 0);
    tokens = (token0 + token) * kTokenRow + lane / 8 % 2 * 16 + first_block * 32;
    floats = ImmaShared<Format, Tile>::kTokenCodes + (first_block * Tile::kTokens + token0 + lane % 4 * 2) * 4;
  }
  __device__ void start_tile(const ImmaArgs& args, const ImmaRows<Tile>& tile_rows, int blocks_per_row, int lane) {
#pragma unroll
    for (int i = 0; i < Tile::kRowMmas * 2; ++i) {
      const int local = row0 + i * 8 + lane / 4;
      const ImmaRow of = tile_rows.at(local);
      const int64_t row = min(of.row, args.outputs[of.output].weight.rows - 1);
      scales[i / 2][i % 2] = Tile::kRows * Format::kCodeRow + local * Format::kScaleRow +
                             first_block * Format::kScaleBytes + Format::scale_phase(row, blocks_per_row);
      super_phase[i / 2][i % 2] = Format::super_phase(row, blocks_per_row);
    }
  }
};

/// acc += what block `i` of this warp's in the slab adds.
template <class Format, class Tile>
__device__ __forceinline__ void imma_block(float (&acc)[Tile::kRowMmas][Tile::kTokenMmas][4], const uint8_t* weights,
                                           const uint8_t* tokens, const ImmaLane<Format, Tile>& at,
                                           const RowSuper (&supers)[Tile::kRowMmas][2], int i) {
  constexpr int kTokenMmas = Tile::kTokenMmas, kTokenRow = ImmaLane<Format, Tile>::kTokenRow;
  constexpr int kPlane = Tile::kBlocks * Tile::kTokens, kGroup = kTokenMmas < 4 ? kTokenMmas : 4;
  const int lane = threadIdx.x % 32;
  uint32_t b[kTokenMmas][2];
  const uint32_t codes = shared_address(tokens) + at.tokens + i * 32;
  if constexpr (kTokenMmas == 1) {
    load_rows_x2(b[0][0], b[0][1], codes);
  } else {
#pragma unroll
    for (int j = 0; j < kTokenMmas; j += 2) {
      uint32_t r[4];
      load_rows_x4(r, codes + j * 8 * kTokenRow);
      b[j][0] = r[0], b[j][1] = r[1], b[j + 1][0] = r[2], b[j + 1][1] = r[3];
    }
  }
  uint32_t a[Tile::kRowMmas][4];
  RowScale upper[Tile::kRowMmas], lower[Tile::kRowMmas];
#pragma unroll
  for (int r = 0; r < Tile::kRowMmas; ++r) {
    Format::load_codes(a[r], shared_address(weights) + at.codes + r * 16 * Format::kCodeRow,
                       shared_address(weights) + at.pairs + r * 16 * Format::kCodeRow, i, lane);
    upper[r] = Format::scale(weights + at.scales[r][0] + i * Format::kScaleBytes, supers[r][0]);
    lower[r] = Format::scale(weights + at.scales[r][1] + i * Format::kScaleBytes, supers[r][1]);
  }
  const auto* floats = reinterpret_cast<const float*>(tokens + at.floats) + i * Tile::kTokens;
#pragma unroll
  for (int first = 0; first < kTokenMmas; first += kGroup) {
    // Products first, then what waits for them.
    float2 d[kGroup], offset[kGroup], low[kGroup], high[kGroup];
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      const float* of = floats + (first + j) * 8;
      d[j] = *reinterpret_cast<const float2*>(of);
      offset[j] = make_float2(-kMagic * d[j].x, -kMagic * d[j].y);
      if constexpr (Format::kMin) low[j] = *reinterpret_cast<const float2*>(of + kPlane);
      if constexpr (Format::kMin && Format::kPerSixteen) {
        const float2 all = low[j];
        low[j] = *reinterpret_cast<const float2*>(of + 2 * kPlane);
        high[j] = make_float2(all.x - low[j].x, all.y - low[j].y);
      }
    }
    auto add = [&](float(&sum)[4], const float(&c)[4], int j, float s_upper, float s_lower) {
      sum[0] = fmaf(s_upper, fmaf(c[0], d[j].x, offset[j].x), sum[0]);
      sum[1] = fmaf(s_upper, fmaf(c[1], d[j].y, offset[j].y), sum[1]);
      sum[2] = fmaf(s_lower, fmaf(c[2], d[j].x, offset[j].x), sum[2]);
      sum[3] = fmaf(s_lower, fmaf(c[3], d[j].y, offset[j].y), sum[3]);
    };
    auto add_min = [&](float(&sum)[4], const float2& sums, float m_upper, float m_lower) {
      sum[0] = fmaf(m_upper, sums.x, sum[0]);
      sum[1] = fmaf(m_upper, sums.y, sum[1]);
      sum[2] = fmaf(m_lower, sums.x, sum[2]);
      sum[3] = fmaf(m_lower, sums.y, sum[3]);
    };
#pragma unroll
    for (int r = 0; r < Tile::kRowMmas; ++r) {
      float c[kGroup][4], second[kGroup][4];
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        if constexpr (Format::kPerSixteen) {
          mma_s8_k16(c[j], a[r][0], a[r][1], b[first + j][0]);
          mma_s8_k16(second[j], a[r][2], a[r][3], b[first + j][1]);
        } else {
          mma_s8_k32(c[j], a[r], b[first + j][0], b[first + j][1]);
        }
      }
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        float(&sum)[4] = acc[r][first + j];
        if constexpr (Format::kMin) add_min(sum, low[j], upper[r].m, lower[r].m);
        if constexpr (Format::kMin && Format::kPerSixteen) add_min(sum, high[j], upper[r].second_m, lower[r].second_m);
        add(sum, c[j], j, upper[r].s, lower[r].s);
        if constexpr (Format::kPerSixteen) add(sum, second[j], j, upper[r].second_s, lower[r].second_s);
      }
    }
  }
}

/// acc += what this warp's blocks of a slab, which begins at block `first` and has `count`, add.
template <class Format, class Tile>
__device__ __forceinline__ void imma_slab(float (&acc)[Tile::kRowMmas][Tile::kTokenMmas][4], const uint8_t* weights,
                                          const uint8_t* tokens, const ImmaLane<Format, Tile>& at, int first,
                                          int count) {
  static_assert(8 % Tile::kBlocksOfWarp == 0);  // a warp's blocks have one super
  RowSuper supers[Tile::kRowMmas][2] = {};
  if constexpr (Format::kSuperRow > 0) {
    const uint8_t* rows = weights + Tile::kRows * (Format::kCodeRow + Format::kScaleRow) +
                          (at.row0 + threadIdx.x % 32 / 4) * Format::kSuperRow;
#pragma unroll
    for (int r = 0; r < Tile::kRowMmas * 2; ++r) {
      const unsigned entry = ((at.super_phase[r / 2][r % 2] + first / 8u) & 3) + at.first_block / 8u;
      supers[r / 2][r % 2] = Format::super(rows + r * 8 * Format::kSuperRow + entry * 4);
    }
  }
  if (count == Tile::kBlocks) {
#pragma unroll
    for (int i = 0; i < Tile::kBlocksOfWarp; ++i) imma_block<Format, Tile>(acc, weights, tokens, at, supers, i);
  } else {
#pragma unroll 1
    for (int i = 0; i < min(Tile::kBlocksOfWarp, count - at.first_block); ++i)
      imma_block<Format, Tile>(acc, weights, tokens, at, supers, i);
  }
}

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
      mbarrier_init(empty + s, Tile::kWarps);
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
      __syncwarp();
      if (lane == 0) mbarrier_arrive(empty + stage);
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

/// How many blocks share a tile along k: as many as make the rounds of the grid shortest.
inline int imma_splits(int tiles, int slabs, int64_t tile_bytes, const ImmaScratch& scratch, int num_sms) {
  int best = 1;
  double best_cost = 1e30;
  for (int splits = 1; splits <= std::min(8, slabs); ++splits) {
    if (splits > 1 && (tile_bytes * tiles * splits > scratch.partial_bytes || tiles > scratch.num_counters)) break;
    const int rounds = (tiles * splits + num_sms - 1) / num_sms;
    // A tile costs two slabs' time to start and to end; sums in memory cost about one slab's more.
    const double cost = rounds * (double((slabs + splits - 1) / splits) + 2 + (splits > 1 ? 1.5 : 0));
    if (cost < best_cost * 0.97) best = splits, best_cost = cost;
  }
  return best;
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

}  // namespace imp::cuda
