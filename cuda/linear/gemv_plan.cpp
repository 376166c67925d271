#include "linear/gemv_plan.h"

#include <algorithm>

namespace imp::cuda {
namespace {

constexpr int kPartialFloats = kGemvPartialBytes / 4;

int round_up_div(int a, int b) { return (a + b - 1) / b; }

}  // namespace

void divide_rows(GemvPlan& plan, const GemvArgs& args, const GemvShape& shape, int num_blocks, int max_rows) {
  const int outputs = args.gated ? 1 : args.num_outputs;
  int64_t cost[3] = {}, total = 0;
  int blocks[3] = {}, used = 0;
  for (int i = 0; i < outputs; ++i) {
    cost[i] = int64_t{args.outputs[i].weight.rows} * shape.strip_bytes[args.outputs[i].second_layout];
    total += cost[i];
  }
  for (int i = 0; i < outputs; ++i) {
    const int rows = args.outputs[i].weight.rows;
    blocks[i] = std::clamp(static_cast<int>(num_blocks * cost[i] / total), round_up_div(rows, max_rows), rows);
    used += blocks[i];
  }
  for (; used < num_blocks; ++used) {
    int most = -1;
    for (int i = 0; i < outputs; ++i)
      if (blocks[i] < args.outputs[i].weight.rows && (most < 0 || cost[i] * blocks[most] > cost[most] * blocks[i]))
        most = i;
    if (most < 0) break;
    ++blocks[most];
  }
  for (int i = 0; i < 3; ++i) {
    plan.first_block[i + 1] = plan.first_block[i] + blocks[i];
    if (blocks[i] == 0) continue;
    plan.rows_each[i] = args.outputs[i].weight.rows / blocks[i];
    plan.blocks_longer[i] = args.outputs[i].weight.rows % blocks[i];
  }
}

GemvPlan plan_gemv(const GemvArgs& args, const GemvShape& shape, int num_sms, int half_shared_bytes) {
  GemvPlan plan = {};
  const int of_a_row = args.gated ? 2 : 1;
  divide_rows(plan, args, shape, num_sms, std::max(1, kPartialFloats / (of_a_row * shape.tokens)));
  int sub_rows = 0;  // of the largest block
  for (int i = 0; i < 3; ++i)
    sub_rows = std::max(sub_rows, of_a_row * (plan.rows_each[i] + (plan.blocks_longer[i] > 0)));

  // Strips a chunk: the fewest steps for the busiest warp, where putting a chunk's sums together costs half a step.
  const int strips = round_up_div(args.outputs[0].weight.cols, shape.strip_cols);
  const int groups = round_up_div(sub_rows, shape.rows);
  double fewest = 0;
  for (int length = strips; length >= 1; --length) {
    const int chunks = round_up_div(strips, length);
    if (chunks > 1 && chunks * sub_rows * shape.tokens > kPartialFloats) break;
    const double steps = round_up_div(groups * chunks, shape.warps) * (length + 0.5);
    if (fewest > 0 && steps >= fewest) continue;
    fewest = steps;
    plan.chunk_strips = length, plan.num_chunks = chunks;
  }
  plan.groups_per_turn = shape.warps / plan.num_chunks, plan.chunks_per_turn = shape.warps % plan.num_chunks;

  // About half of an SM's shared memory, needed or not, so that the blocks of two launches fit on an SM and never more:
  // where two blocks of one launch land on an SM, another has none, and everything waits for the first. Two GEMVs in a
  // row cannot do that, for one place an SM becomes free at a time. After another kernel a GEMV takes more than half,
  // and so lands on every SM once; those behind it take less, to fit beside it.
  plan.ring_bytes = shape.slot_bytes * shape.rows * shape.warps * shape.depth;
  const int needed = plan.ring_bytes + shape.token_bytes * args.tokens + plan.num_chunks * sub_rows * shape.tokens * 4;
  plan.shared_bytes = std::max(needed, half_shared_bytes + (args.after_other ? kGemvUneven : -kGemvUneven));
  plan.one_over_cols = 1.0f / static_cast<float>(args.outputs[0].weight.cols);
  return plan;
}

}  // namespace imp::cuda
