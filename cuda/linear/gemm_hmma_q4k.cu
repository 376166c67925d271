// Prefill product of Q4_K weights by mma.sync: y[t, n] = sum_k x[t, k] * W[n, k], x bf16, fp32 sums; sm_80 and later.
//
// A block of 8 warps computes tiles of 256 rows of W by kTokens tokens, a warp 32 rows by all tokens, 64 of k a stage.
// W is the 16-row operand of mma.m16n8k16 and is expanded from nibbles in the registers it is taken from; x is the
// 8-wide one. The order in which k is summed is free, as long as both agree: of each 64, lane l takes block l % 4 / 2
// of its rows and of that weights 8 (l % 2) + {0..7} (low nibbles) and those 16 further (high nibbles), which are 8
// bytes of codes, two numbers to scale by, and two pieces of 16 bytes of x. So nothing is shuffled, and weights reach
// the tensor cores without a way back through shared memory.
//
// Shared memory: a ring of stages (x: kTokens rows of 128 bytes, whose 16-byte pieces of odd tokens are 2 places off,
// so that a quarter of a warp reads all banks; codes: 32 bytes a row), filled by cp.async kStages - 1 ahead; scales and
// supers of 256 of k in two slots beside it. Tiles may be cut along k, in steps of 256 (tile_work.h).
//
// Bytes: W packed once per kTokens tokens (through L2), x once per 256 rows (through L2), y once. Expanding takes 31
// instructions per 16 x 16 weights, which kTokens / 8 mma use.
#include "device/cp_async.cuh"
#include "device/mma.cuh"
#include "device/pdl.cuh"
#include "linear/fused_gemm_tile.cuh"
#include "linear/gemm_hmma.h"
#include "linear/gemm_wgmma_codecs.cuh"

namespace imp::cuda {
namespace {

template <int kTokens>
struct HmmaTile {
  static constexpr int kRows = 256, kThreads = 256, kStep = 256, kStagesOfStep = 4;
  static constexpr int kStages = kTokens == 128 ? 3 : 5;
  static constexpr int kTokenBytes = kTokens * 128, kStageBytes = kTokenBytes + kRows * 32;
  static constexpr int kSlotBytes = kRows * (16 + 4);  // scales and minimums of 8 blocks, and their super
  static constexpr int kSharedBytes = kStages * kStageBytes + 2 * kSlotBytes;
  static_assert(kSharedBytes <= kHmmaSharedBytes);
  static_assert(kStages - 1 <= kStagesOfStep);  // two slots are enough, and a block's first stages are of one step
};

/// Fills the ring, along all that a block has to do.
template <int kTokens>
class HmmaLoader {
  using Tile = HmmaTile<kTokens>;

 public:
  __device__ HmmaLoader(const FusedGemmParams& p, const __nv_bfloat16* x, int64_t x_stride, uint8_t* shared)
      : p_(p), x_(x), x_stride_(x_stride), shared_(shared), cursor_(p.work, static_cast<int>(blockIdx.x)) {
    next_item();
  }
  __device__ bool more() const { return more_; }

  __device__ void first_weights() {
#pragma unroll
    for (int s = 0; s < Tile::kStages - 1; ++s) weights(k_ + s, s);
  }
  __device__ void first_tokens() {
#pragma unroll
    for (int s = 0; s < Tile::kStages - 1; ++s) {
      tokens(s);
      advance();
      cp_async_commit();
    }
  }
  /// One stage. Commits a group in any case, so that their number says which stages are complete.
  __device__ void load(int stage) {
    if (more_) {
      weights(k_, stage);
      tokens(stage);
      advance();
    }
    cp_async_commit();
  }

 private:
  __device__ void next_item() {
    TileItem item;
    more_ = cursor_.next(p_.work, item);
    if (!more_) return;
    k_ = item.begin * Tile::kStagesOfStep, end_ = item.end * Tile::kStagesOfStep;
    const TilePlace place = p_.work.place(item.tile);
    const TileRows rows = tile_rows<Tile::kRows>(p_, place.row_tile);
    first_token_ = place.token_tile * kTokens;
    const int thread = static_cast<int>(threadIdx.x);
    const int64_t blocks = p_.blocks_per_row;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const TileRow of = tile_row(p_, rows, i * 128 + thread / 2);
      const PackedView& w = p_.outputs[of.output].weight;
      codes_[i] = w.codes + min(of.n, w.rows - 1) * blocks * 16 + thread % 2 * 16;
    }
    const TileRow of = tile_row(p_, rows, thread);
    const PackedView& w = p_.outputs[of.output].weight;
    scales_ = w.scales + min(of.n, w.rows - 1) * blocks * 2;
    supers_ = w.supers + min(of.n, w.rows - 1) * (blocks / 8) * 4;
  }
  __device__ void advance() {
    if (++k_ == end_) next_item();
  }
  __device__ void weights(int k, int stage) {
    const int thread = static_cast<int>(threadIdx.x);
    uint8_t* to = shared_ + stage * Tile::kStageBytes + Tile::kTokenBytes;
#pragma unroll
    for (int i = 0; i < 2; ++i) cp_async_16(to + (i * 128 + thread / 2) * 32 + thread % 2 * 16, codes_[i] + k * 32);
    if (k % Tile::kStagesOfStep != 0) return;
    const int step = k / Tile::kStagesOfStep;
    uint8_t* slot = shared_ + Tile::kStages * Tile::kStageBytes + slot_ * Tile::kSlotBytes;
    cp_async_16(slot + thread * 16, scales_ + step * 16);
    cp_async_4(slot + Tile::kRows * 16 + thread * 4, supers_ + step * 4);
    slot_ ^= 1;
  }
  __device__ void tokens(int stage) {
    const int thread = static_cast<int>(threadIdx.x), piece = thread % 8;
    uint8_t* to = shared_ + stage * Tile::kStageBytes;
#pragma unroll
    for (int i = 0; i < kTokens / 32; ++i) {
      const int token = i * 32 + thread / 8, row = min(first_token_ + token, p_.tokens - 1);
      cp_async_16(to + token * 128 + (piece ^ token % 2 * 2) * 16, x_ + row * x_stride_ + k_ * 64 + piece * 8);
    }
  }

  const FusedGemmParams& p_;
  const __nv_bfloat16* x_;
  int64_t x_stride_;
  uint8_t* shared_;
  TileWork::Cursor cursor_;
  bool more_;
  int k_, end_;  // in stages
  int first_token_;
  int slot_ = 0;
  const uint8_t *codes_[2], *scales_, *supers_;
};

/// One row's part of a stage that a lane expands, and its scale and minimum.
struct HmmaRow {
  uint32_t codes[2];
  float s, m;
};

/// d += what 64 of k add: 32 rows of a warp by kTokens.
template <int kTokens>
__device__ __forceinline__ void hmma_stage(float (&d)[2][kTokens / 8][4], const uint8_t* tokens, const uint8_t* codes,
                                           const uint8_t* scales, int part) {
  using Tile = HmmaTile<kTokens>;
  const int lane = static_cast<int>(threadIdx.x) % 32, quarter = lane % 4;
  const int first_row = static_cast<int>(threadIdx.x) / 32 * 32 + lane / 4;
  HmmaRow rows[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = first_row + i * 8;
    const uint2 v = *reinterpret_cast<const uint2*>(codes + row * 32 + quarter * 8);
    const uint32_t sm = *reinterpret_cast<const uint16_t*>(scales + row * 16 + part * 4 + quarter / 2 * 2);
    const float2 super = __half22float2(*reinterpret_cast<const __half2*>(scales + Tile::kRows * 16 + row * 4));
    rows[i] = {{v.x, v.y}, super.x * static_cast<float>(sm & 255), super.y * static_cast<float>(sm >> 8)};
  }
#pragma unroll
  for (int high = 0; high < 2; ++high) {
    uint32_t a[2][2][4];  // of 4 weights of each row, and of the next 4
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int word = 0; word < 2; ++word) {
        const uint32_t v = (rows[i].codes[word] >> (high * 4)) & 0x0f0f0f0fu;
        a[word][i / 2][i % 2] = WgmmaQ4K::pair<0>(v, rows[i].s, rows[i].m);
        a[word][i / 2][i % 2 + 2] = WgmmaQ4K::pair<2>(v, rows[i].s, rows[i].m);
      }
    }
    const int piece = quarter / 2 * 4 + quarter % 2 + high * 2;
    const uint8_t* from = tokens + lane / 4 * 128 + (piece ^ lane / 4 % 2 * 2) * 16;
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      const uint4 x = *reinterpret_cast<const uint4*>(from + j * 8 * 128);
      mma_16816_bf16(d[0][j], a[0][0], x.x, x.y);
      mma_16816_bf16(d[1][j], a[0][1], x.x, x.y);
      mma_16816_bf16(d[0][j], a[1][0], x.z, x.w);
      mma_16816_bf16(d[1][j], a[1][1], x.z, x.w);
    }
  }
}

template <int kTokens>
__global__ __launch_bounds__(256, 1) void gemm_hmma_q4k_kernel(const __grid_constant__ FusedGemmParams p,
                                                               const __nv_bfloat16* x, int64_t x_stride) {
  using Tile = HmmaTile<kTokens>;
  extern __shared__ __align__(128) uint8_t shared[];
  pdl_trigger();
  HmmaLoader<kTokens> loader(p, x, x_stride, shared);
  if (!loader.more()) return;
  loader.first_weights();  // constant, where x is not
  pdl_wait();
  loader.first_tokens();

  const int thread = static_cast<int>(threadIdx.x), first_row = thread / 32 * 32;
  TileWork::Cursor cursor(p.work, static_cast<int>(blockIdx.x));
  TileItem item;
  int stage = 0, slot = 0;
  while (cursor.next(p.work, item)) {
    float d[2][kTokens / 8][4] = {};
    for (int k = item.begin * Tile::kStagesOfStep; k < item.end * Tile::kStagesOfStep; ++k) {
      cp_async_wait<Tile::kStages - 2>();
      __syncthreads();  // and nobody reads the stage before any more
      loader.load(stage == 0 ? Tile::kStages - 1 : stage - 1);
      const int part = k % Tile::kStagesOfStep;
      const uint8_t* at = shared + stage * Tile::kStageBytes;
      hmma_stage<kTokens>(d, at, at + Tile::kTokenBytes,
                          shared + Tile::kStages * Tile::kStageBytes + slot * Tile::kSlotBytes, part);
      if (++stage == Tile::kStages) stage = 0;
      if (part == Tile::kStagesOfStep - 1) slot ^= 1;
    }
    if (!gather_sums(p, reinterpret_cast<float(&)[kTokens]>(d), item, thread)) continue;
    const TilePlace place = p.work.place(item.tile);
    const TileRows rows = tile_rows<Tile::kRows>(p, place.row_tile);
#pragma unroll
    for (int i = 0; i < 2; ++i)
      store_fragments<kTokens>(p, reinterpret_cast<float(&)[kTokens / 2]>(d[i]), rows, first_row + i * 16,
                               place.token_tile);
  }
}

template <int kTokens>
void run(const FusedGemmArgs& args, const LaunchContext& context) {
  using Tile = HmmaTile<kTokens>;
  const FusedGemmParams params = plan_fused_gemm(args, {Tile::kRows, kTokens, Tile::kStep}, context.num_sms);
  launch(context, "gemm_hmma_q4k", gemm_hmma_q4k_kernel<kTokens>, static_cast<unsigned>(params.work.num_blocks),
         Tile::kThreads, Tile::kSharedBytes, params, static_cast<const __nv_bfloat16*>(args.x), args.x_stride);
}

}  // namespace

void gemm_hmma_q4k(const FusedGemmArgs& args, const LaunchContext& context, int tile_tokens) {
  if (args.tokens == 0) return;
  if (tile_tokens == 0)
    tile_tokens = args.tokens <= 32 ? 32 : args.tokens <= 64 || narrow_tiles_do(args.tokens, 128) ? 64 : 128;
  if (tile_tokens == 32) return run<32>(args, context);
  if (tile_tokens == 64) return run<64>(args, context);
  run<128>(args, context);
}

}  // namespace imp::cuda
