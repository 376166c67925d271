#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/attention.h"
#include "reference/reference.h"
#include "support/compare.h"
#include "support/cpu_context.h"
#include "support/paged_batch.h"

using namespace imp;
using namespace imp::test;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Shape {
  int group, num_kv_heads, head_dim;
  int window = 0;
  float softcap = 0;
  float q_sigma = 1, k_sigma = 1;
};

/// A batch with queries, and room for the output.
struct Problem {
  Problem(const Shape& shape, std::vector<PagedBatch::Sequence> sequences, uint64_t seed)
      : shape(shape), random(seed), paged(std::move(sequences), shape.num_kv_heads, shape.head_dim, random) {
    paged.fill(random, shape.k_sigma, 2.0f);
    width = int64_t{shape.group} * shape.num_kv_heads * shape.head_dim;
    q = random.normals(paged.tokens() * width, shape.q_sigma);
  }

  AttentionArgs args(std::vector<float>& out) {
    out.assign(paged.tokens() * width, kNan);
    return {.q = f32_view(q.data(), paged.tokens(), width),
            .out = f32_view(out.data(), paged.tokens(), width),
            .num_heads = shape.group * shape.num_kv_heads,
            .scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim)),
            .softcap = shape.softcap,
            .sliding_window = shape.window,
            .cache = paged.cache(),
            .batch = paged.batch()};
  }

  cpu::AttentionProblem problem(cpu::Isa isa) {
    const SequenceBatch batch = paged.batch();
    return {isa,
            PagedBatch::kBlockSize,
            {.tokens = paged.tokens(),
             .max_query_len = batch.max_query_len,
             .max_context_len = batch.max_context_len,
             .num_heads = shape.group * shape.num_kv_heads,
             .num_kv_heads = shape.num_kv_heads,
             .head_dim = shape.head_dim,
             .sliding_window = shape.window}};
  }

  /// A score is a sum of head_dim products, each about q_rms * k_rms, rounded to fp32 on the way: a random walk whose
  /// error is some 2^-24 * head_dim * q_rms * k_rms before the scale of 1 / sqrt(head_dim). It moves a weight by as
  /// much, relatively; exp and the sums add 1e-6. The output is a mean of values of at most `vmax`, and a
  /// weight stands in it twice: as itself and in the divisor.
  Tolerance tolerance() {
    double q_square = 0, k_square = 0, vmax = 0;
    int64_t k_count = 0;
    for (float x : q) q_square += double{x} * x;
    for (uint16_t bits : paged.k()) {
      const double x = f16_to_f32(bits);
      if (!std::isnan(x)) k_square += x * x, ++k_count;
    }
    for (uint16_t bits : paged.v()) {
      const double x = f16_to_f32(bits);
      if (!std::isnan(x)) vmax = std::max(vmax, std::abs(x));
    }
    const double product =
        std::sqrt(q_square / std::max<size_t>(1, q.size()) * k_square / std::max<int64_t>(1, k_count));
    const double score = 0x1p-24 * std::sqrt(static_cast<double>(shape.head_dim)) * product;
    return {vmax * 2 * (score + 1e-6), 0};
  }

  Shape shape;
  Random random;
  PagedBatch paged;
  int64_t width;
  std::vector<float> q;
};

/// Every candidate that can run it here, against the reference.
void check_all(const Shape& shape, std::vector<PagedBatch::Sequence> sequences, uint64_t seed, int threads = 2) {
  Problem problem(shape, std::move(sequences), seed);
  std::vector<float> expected, found;
  reference::attention(problem.args(expected));
  TestCpu cpu(threads);
  int compared = 0;
  for (const auto& candidate : cpu::attention_table().entries()) {
    if (candidate.reject(problem.problem(cpu::detect_isa()))) continue;
    cpu.spoil();
    const AttentionArgs args = problem.args(found);
    candidate.launch(cpu.context(), args);
    CAPTURE(candidate.name);
    CAPTURE(shape.head_dim);
    CAPTURE(shape.group);
    CAPTURE(shape.window);
    CHECK(difference(expected, found, problem.tolerance()) == "");
    ++compared;
  }
  CHECK(compared >= (cpu::detect_isa() == cpu::Isa::reference ? 1 : 2));
}

const std::vector<PagedBatch::Sequence> kDecode = {{1, 17}, {1, 1}, {1, 511}, {0, 16}, {1, 15}, {1, 513}, {1, 16}};
const std::vector<PagedBatch::Sequence> kPrefill = {{7, 7},  {1, 1},   {33, 33}, {0, 40},  {31, 31},
                                                    {1, 17}, {7, 513}, {31, 47}, {49, 130}};

}  // namespace

TEST_CASE("decode and prefill equal the reference for every head size and grouping") {
  uint64_t seed = 1;
  for (int head_dim : {8, 64, 80, 96, 128, 256}) {
    for (int group : {1, 2, 3, 8}) {
      check_all({.group = group, .num_kv_heads = 2, .head_dim = head_dim}, kDecode, ++seed);
      check_all({.group = group, .num_kv_heads = 2, .head_dim = head_dim}, kPrefill, ++seed);
    }
  }
}

TEST_CASE("a sliding window hides what lies before it, to the token") {
  uint64_t seed = 100;
  for (int window : {1, 2, 15, 16, 17, 31, 32, 33, 64, 510, 511, 512, 513}) {
    const Shape shape = {.group = 3, .num_kv_heads = 1, .head_dim = 64, .window = window};
    check_all(shape, kDecode, ++seed);
    check_all(shape, kPrefill, ++seed);
  }
}

TEST_CASE("softcap") {
  for (float cap : {0.5f, 5.0f, 50.0f}) {
    const Shape shape = {.group = 2, .num_kv_heads = 2, .head_dim = 96, .softcap = cap, .q_sigma = 4};
    check_all(shape, kDecode, 200);
    check_all(shape, kPrefill, 201);
  }
}

TEST_CASE("scores of some ten thousand, as models with outlier channels make them") {
  // q . k reaches 3e4 before scaling; softmax is then nearly one-hot and every rounding of a score shows.
  for (int head_dim : {64, 256}) {
    const Shape shape = {.group = 3, .num_kv_heads = 1, .head_dim = head_dim, .q_sigma = 60, .k_sigma = 20};
    check_all(shape, kDecode, 300);
    check_all(shape, kPrefill, 301);
  }
}

TEST_CASE("a long context is split and joined") {
  check_all({.group = 3, .num_kv_heads = 1, .head_dim = 64}, {{1, 20001}, {1, 3}, {1, 2049}}, 400);
  check_all({.group = 1, .num_kv_heads = 1, .head_dim = 256, .window = 700}, {{1, 5000}, {1, 129}}, 401);
}

TEST_CASE("results are the same bits for any number of threads, and again") {
  for (const auto& sequences : {kDecode, kPrefill}) {
    Problem problem({.group = 3, .num_kv_heads = 3, .head_dim = 64}, sequences, 500);
    for (const auto& candidate : cpu::attention_table().entries()) {
      if (candidate.reject(problem.problem(cpu::detect_isa()))) continue;
      std::vector<float> first, other;
      for (int threads : {1, 1, 2, 3, 7}) {
        TestCpu cpu(threads);
        const AttentionArgs args = problem.args(first.empty() ? first : other);
        candidate.launch(cpu.context(), args);
        if (!other.empty()) CHECK(same_bits(first, other));
      }
    }
  }
}

TEST_CASE("chunks of a prompt give the bits of the whole, and so does any company in the batch") {
  const Shape shape = {.group = 3, .num_kv_heads = 2, .head_dim = 64, .window = 90};
  Problem problem(shape, {{150, 150}}, 600);
  for (const auto& candidate : cpu::attention_table().entries()) {
    if (candidate.reject(problem.problem(cpu::detect_isa()))) continue;
    TestCpu cpu(2);
    std::vector<float> whole, chunked;
    candidate.launch(cpu.context(), problem.args(whole));
    AttentionArgs args = problem.args(chunked);
    const TensorView q = args.q, out = args.out;
    for (auto [begin, end] : {std::pair{0, 1}, {1, 34}, {34, 65}, {65, 150}}) {
      const int32_t starts[] = {0, end - begin}, context = end;
      args.batch.query_start = starts;
      args.batch.context_len = &context;
      args.batch.positions = problem.paged.batch().positions + begin;
      args.batch.max_query_len = end - begin;
      args.q = {q.row<float>(begin), DType::f32, end - begin, q.cols, q.row_stride};
      args.out = {out.row<float>(begin), DType::f32, end - begin, out.cols, out.row_stride};
      candidate.launch(cpu.context(), args);
    }
    CAPTURE(candidate.name);
    CHECK(same_bits(whole, chunked));
  }
}

TEST_CASE("a NaN in a query stays in its token and head") {
  Problem problem({.group = 2, .num_kv_heads = 1, .head_dim = 64}, {{5, 40}, {1, 20}}, 700);
  std::vector<float> clean, found;
  TestCpu cpu(1);
  for (const auto& candidate : cpu::attention_table().entries()) {
    if (candidate.reject(problem.problem(cpu::detect_isa()))) continue;
    candidate.launch(cpu.context(), problem.args(clean));
    const int64_t row = 2, head = 1;
    const float kept = problem.q[row * problem.width + head * 64 + 7];
    problem.q[row * problem.width + head * 64 + 7] = kNan;
    candidate.launch(cpu.context(), problem.args(found));
    problem.q[row * problem.width + head * 64 + 7] = kept;
    for (int64_t i = 0; i < static_cast<int64_t>(found.size()); ++i) {
      const bool poisoned = i / problem.width == row && i % problem.width / 64 == head;
      if (poisoned)
        REQUIRE(std::isnan(found[i]));
      else
        REQUIRE(found[i] == clean[i]);
    }
  }
}

TEST_CASE("rows with a stride, and no tokens at all") {
  Problem problem({.group = 2, .num_kv_heads = 1, .head_dim = 80}, {{9, 30}}, 800);
  std::vector<float> expected, unused;
  reference::attention(problem.args(expected));
  const int64_t stride = problem.width + 5;
  std::vector<float> q(9 * stride, kNan), out(9 * stride, -7.0f);
  for (int64_t t = 0; t < 9; ++t) std::copy_n(&problem.q[t * problem.width], problem.width, &q[t * stride]);
  AttentionArgs args = problem.args(unused);
  args.q = {q.data(), DType::f32, 9, problem.width, stride};
  args.out = {out.data(), DType::f32, 9, problem.width, stride};
  TestCpu cpu(1);
  cpu::run_attention(cpu.context(), args);
  for (int64_t t = 0; t < 9; ++t) {
    const std::span row(&out[t * stride], problem.width);
    CHECK(difference(std::span(expected).subspan(t * problem.width, problem.width), row, problem.tolerance()) == "");
    for (int i = 0; i < 5; ++i) CHECK(out[t * stride + problem.width + i] == -7.0f);
  }

  Problem empty({.group = 2, .num_kv_heads = 1, .head_dim = 64}, {{0, 16}}, 801);
  CHECK(cpu::run_attention(cpu.context(), empty.args(unused)) != "");
}

TEST_CASE("the table: best first, reasons for the others") {
  const cpu::AttentionProblem decode = {cpu::Isa::avx512, 16, {1, 1, 100, 9, 3, 64, 0}};
  const auto verdicts = cpu::attention_table().explain(decode);
#if defined(__x86_64__)
  CHECK(cpu::attention_table().select(decode).name == "attention_split_avx512");
  cpu::AttentionProblem prefill = decode;
  prefill.query.max_query_len = 2;
  CHECK(cpu::attention_table().select(prefill).name == "attention_tile_avx512");
  prefill.isa = cpu::Isa::avx2;
  CHECK(cpu::attention_table().select(prefill).name == "attention_tile_avx2");
  prefill.query.head_dim = 60;
  CHECK(cpu::attention_table().select(prefill).name == "attention_reference");
  CHECK(cpu::attention_table().explain(prefill)[3].reason == std::string("head_dim is not a multiple of 8"));
#endif
  CHECK(verdicts.back().name == "attention_reference");
  cpu::AttentionProblem scalar = decode;
  scalar.isa = cpu::Isa::reference;
  CHECK(cpu::attention_table().select(scalar).name == "attention_reference");
}
