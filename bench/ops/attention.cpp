#include "cpu/attention.h"

#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "ops/op_cost.h"
#include "support/cpu_context.h"
#include "support/paged_batch.h"

// Every candidate of CPU attention over shapes of real models: best time of several runs, with what it moved and
// computed.
//   bench_ops_attention [THREADS]

namespace {

using namespace imp;
using namespace imp::test;

struct Shape {
  const char* model;
  int num_heads, num_kv_heads, head_dim;
};
constexpr Shape kShapes[] = {{"SmolLM2-135M", 9, 3, 64}, {"Gemma-3-270M", 4, 1, 256}, {"Qwen3-0.6B", 16, 8, 128}};
constexpr PagedBatch::Sequence kSequences[] = {{1, 32},    {1, 160},   {1, 1024},  {1, 8192},
                                               {128, 128}, {512, 512}, {512, 4096}};

/// Seconds on the clock, or of this thread's processor time where it works alone: then others on the machine matter
/// less.
double now(bool alone) {
  timespec time;
  clock_gettime(alone ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double best_seconds(const cpu::AttentionTable::Entry& candidate, const cpu::CpuContext& context,
                    const AttentionArgs& args) {
  const bool alone = context.pool.num_threads() == 1;
  double best = 1e9, spent = 0;
  for (int run = 0; run < 2000 && (run < 3 || spent < 0.1); ++run) {
    const double begin = now(alone);
    candidate.launch(context, args);
    const double seconds = now(alone) - begin;
    best = std::min(best, seconds);
    spent += seconds;
  }
  return best;
}

void measure(const Shape& shape, PagedBatch::Sequence sequence, TestCpu& cpu) {
  Random random(1);
  PagedBatch paged({sequence}, shape.num_kv_heads, shape.head_dim, random);
  paged.fill(random, 1, 1);
  const int64_t width = int64_t{shape.num_heads} * shape.head_dim;
  std::vector<float> q = random.normals(paged.tokens() * width), out(q.size());
  const AttentionArgs args = {.q = f32_view(q.data(), paged.tokens(), width),
                              .out = f32_view(out.data(), paged.tokens(), width),
                              .num_heads = shape.num_heads,
                              .scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim)),
                              .softcap = 0,
                              .sliding_window = 0,
                              .cache = paged.cache(),
                              .batch = paged.batch()};
  const OpCost cost = cost_of(args);
  for (const auto& candidate : cpu::attention_table().entries()) {
    const cpu::AttentionProblem problem = {cpu::detect_isa(),
                                           16,
                                           {paged.tokens(), sequence.new_tokens, sequence.context, shape.num_heads,
                                            shape.num_kv_heads, shape.head_dim, 0}};
    if (candidate.reject(problem) || candidate.name == "attention_reference") continue;
    const double seconds = best_seconds(candidate, cpu.context(), args);
    std::printf("%-13s new %4d context %5d  %-24.*s %10.2f us %7.2f GB/s %8.2f GFLOP/s\n", shape.model,
                sequence.new_tokens, sequence.context, static_cast<int>(candidate.name.size()), candidate.name.data(),
                seconds * 1e6, cost.bytes / seconds * 1e-9, cost.flops / seconds * 1e-9);
  }
}

}  // namespace

int main(int argc, char** argv) {
  TestCpu cpu(argc > 1 ? std::atoi(argv[1]) : 1);
  for (const Shape& shape : kShapes)
    for (const PagedBatch::Sequence& sequence : kSequences) measure(shape, sequence, cpu);
}
