#pragma once
#include "attention/decode_ring.cuh"
#include "device/math.cuh"
#include "device/mma.cuh"

namespace imp::cuda {

/// What scores need to know of a query row besides q.
struct ScoreRules {
  float softcap;
  int window;
};

/// Query rows of a kv head (8 or 16, one warp has them all) against the pages of this warp: scores, running maximum and
/// sum, and the unnormalised output. Everything is transposed, so that K and V are the a operands and the rows the
/// eight columns of an mma: S^T[key, row] = K Q^T, O^T[dim, row] = V^T P^T.
/// Of tile t a lane holds rows 8t + 2(lane%4) + {0,1}; of S^T keys lane/4 + {0,8}, of O^T dims 16d + lane/4 + {0,8}.
template <int kHeadDim, int kRowTiles>
struct DecodeAccumulator {
  static constexpr int kSteps = kHeadDim / 16;
  uint32_t q[kSteps][kRowTiles][2];
  float o[kSteps][kRowTiles][4] = {};
  float max[kRowTiles][2], sum[kRowTiles][2];  // sum: this lane's part
  int position[kRowTiles][2];                  // of the rows' tokens; -1 for rows that are not there

  __device__ __forceinline__ DecodeAccumulator(int num_rows, int num_tokens, int group, int first_position) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int t = 0; t < kRowTiles; ++t) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = t * 8 + lane % 4 * 2 + i;
        position[t][i] = row >= num_rows ? -1 : first_position + (num_tokens == 1 ? 0 : row / group);
        max[t][i] = -INFINITY, sum[t][i] = 0;
      }
    }
  }
  /// `rows`: scaled queries, f16, of stride kPageRow.
  __device__ __forceinline__ void load_queries(const __half* rows) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int t = 0; t < kRowTiles; ++t) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const __half* at = rows + (t * 8 + lane / 4) * kPageRow<kHeadDim> + step * 16 + lane % 4 * 2;
        q[step][t][0] = *reinterpret_cast<const uint32_t*>(at);
        q[step][t][1] = *reinterpret_cast<const uint32_t*>(at + 8);
      }
    }
  }

  /// Adds a page whose first key is at position `first_key`; `masked`: some row does not see some of its keys.
  __device__ __forceinline__ void add(const __half* page, int first_key, bool masked, const ScoreRules& rules) {
    const int lane = threadIdx.x % 32;
    float s[kRowTiles][4];
    scores(page, s);
    if (rules.softcap > 0) {
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
        for (int i = 0; i < 4; ++i) s[t][i] = soft_cap(s[t][i], rules.softcap);
    }
    if (masked) {
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int key = first_key + lane / 4 + i / 2 * 8, at = position[t][i % 2];
          if (key > at || (rules.window > 0 && key <= at - rules.window)) s[t][i] = -INFINITY;
        }
      }
    }
    float base[kRowTiles][2], rescale[kRowTiles][2];
    bool grown = false;
#pragma unroll
    for (int t = 0; t < kRowTiles; ++t) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float top = fmaxf(s[t][r], s[t][r + 2]);
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, offset));
        top = fmaxf(top, max[t][r]);
        grown |= top > max[t][r];
        const float used = top == -INFINITY ? 0 : top;  // a row that has seen nothing yet stays zero
        rescale[t][r] = fast_exp2((max[t][r] - used) * kLog2e);
        base[t][r] = -used * kLog2e;
        max[t][r] = top;
      }
    }
    if (__any_sync(~0u, grown)) {
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          sum[t][r] *= rescale[t][r];
#pragma unroll
          for (int d = 0; d < kSteps; ++d) o[d][t][r] *= rescale[t][r], o[d][t][r + 2] *= rescale[t][r];
        }
      }
    }
    uint32_t weights[kRowTiles][2];
#pragma unroll
    for (int t = 0; t < kRowTiles; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        s[t][i] = fast_exp2(fmaf(s[t][i], kLog2e, base[t][i % 2]));
        sum[t][i % 2] += s[t][i];
      }
      weights[t][0] = transpose_8x8(pack_half2(s[t][0], s[t][1]));
      weights[t][1] = transpose_8x8(pack_half2(s[t][2], s[t][3]));
    }
    const __half* v =
        page + kPageKeys * kPageRow<kHeadDim> + (lane % 8 + lane / 16 * 8) * kPageRow<kHeadDim> + lane / 8 % 2 * 8;
#pragma unroll
    for (int d = 0; d < kSteps; ++d) {
      uint32_t a[4];
      load_matrix_x4_transposed(a, v + d * 16);
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t) mma_16816(o[d][t], a, weights[t][0], weights[t][1]);
    }
  }

  /// Output to `rows`, of stride kHeadDim + 4; (max, sum) of row r to stats[r].
  __device__ __forceinline__ void store(float* rows, float2* stats) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int t = 0; t < kRowTiles; ++t) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = t * 8 + lane % 4 * 2 + r;
#pragma unroll
        for (int offset = 4; offset < 32; offset *= 2) sum[t][r] += __shfl_xor_sync(~0u, sum[t][r], offset);
        if (lane < 4) stats[row] = make_float2(max[t][r], sum[t][r]);
        float* to = rows + row * (kHeadDim + 4) + lane / 4;
#pragma unroll
        for (int d = 0; d < kSteps; ++d) to[d * 16] = o[d][t][r], to[d * 16 + 8] = o[d][t][r + 2];
      }
    }
  }

 private:
  __device__ __forceinline__ void scores(const __half* page, float (&s)[kRowTiles][4]) {
    const int lane = threadIdx.x % 32;
    const __half* k = page + (lane % 8 + lane / 8 % 2 * 8) * kPageRow<kHeadDim> + lane / 16 * 8;
    float odd[kRowTiles][4] = {};  // two chains of sums, half as long
#pragma unroll
    for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i) s[t][i] = 0;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      uint32_t a[4];
      load_matrix_x4(a, k + step * 16);
#pragma unroll
      for (int t = 0; t < kRowTiles; ++t) mma_16816(step % 2 ? odd[t] : s[t], a, q[step][t][0], q[step][t][1]);
    }
#pragma unroll
    for (int t = 0; t < kRowTiles; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i) s[t][i] += odd[t][i];
  }
};

}  // namespace imp::cuda
