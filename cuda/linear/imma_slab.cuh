#pragma once
// What a multiplying warp of gemm_imma (gemm_imma.cuh) does with a slab: weights and tokens from shared memory to the
// tensor cores, and their integers to scale.
#include "device/wgmma.cuh"
#include "linear/imma_formats.cuh"
#include "linear/imma_tile.cuh"

namespace imp::cuda {

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

}  // namespace imp::cuda
