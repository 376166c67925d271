#include "linear/gemv_mma_plan.h"

#include <algorithm>

#include "linear/gemv_mma.h"

namespace imp::cuda {
namespace {

constexpr int kMostDepth = 4;
constexpr int kMostSums = (kGemvMmaMostGroups + kGemvMmaWarps - 1) * kTileSums;  // of a tile of tokens
constexpr int kLeaves = 8 * 1024;                               // for the kernel that quantises, which runs beside
constexpr int kMostStage = 16 * 304, kMostPair = 512 + 2 * 64;  // of all formats

int round_up_div(int a, int b) { return (a + b - 1) / b; }

}  // namespace

GemvMmaPlan plan_gemv_mma(const GemvArgs& args, const GemvMmaShape& shape, int num_sms, int max_shared_bytes) {
  GemvMmaPlan plan = {};
  const int of_a_row = args.gated ? 2 : 1;
  // A share an SM, or as many for each where they would be too large.
  const int most_rows = kGemvMmaMostGroups * 16 / of_a_row;
  int rows = 0;
  for (int i = 0; i < (args.gated ? 1 : args.num_outputs); ++i) rows += args.outputs[i].weight.rows;
  GemvShape by_bytes = {};
  std::copy(shape.row_bytes, shape.row_bytes + 2, by_bytes.strip_bytes);
  divide_rows(plan.rows, args, by_bytes, num_sms * round_up_div(round_up_div(rows, most_rows), num_sms), most_rows);
  int groups = 0;  // of the largest share
  for (int i = 0; i < 3; ++i)
    groups = std::max(groups, round_up_div(of_a_row * (plan.rows.rows_each[i] + (plan.rows.blocks_longer[i] > 0)), 16));

  const int tokens = args.outputs[0].weight.cols / 64 * shape.pair_bytes, ring = shape.stage_bytes * kGemvMmaWarps;
  const int sums = (groups + kGemvMmaWarps - 1) * shape.token_tiles * kTileSums;
  plan.depth = std::clamp((max_shared_bytes - kLeaves - tokens - sums) / ring, 1, kMostDepth);
  plan.tokens_at = plan.depth * ring;
  plan.sums_at = plan.tokens_at + tokens;
  // More than half, so that two never land on one SM while another has none.
  plan.shared_bytes = std::max(plan.sums_at + sums, max_shared_bytes / 2 + kGemvUneven);
  return plan;
}

int gemv_mma_shared_bytes(int64_t cols, int64_t tokens) {
  const int64_t tiles = (tokens + 7) / 8;
  return static_cast<int>(kMostStage * kGemvMmaWarps + cols / 64 * kMostPair * tiles + kMostSums * tiles) + kLeaves;
}

}  // namespace imp::cuda
