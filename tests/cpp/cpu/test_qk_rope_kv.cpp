#include <doctest/doctest.h>

#include <cmath>

#include "cpu/qk_rope_kv.h"
#include "reference/reference.h"
#include "support/compare.h"
#include "support/cpu_context.h"
#include "support/paged_batch.h"

using namespace imp;
using namespace imp::test;

namespace {

// After the norm a value has some 1e-6; a rotation adds two products of about the same size, so the error is relative
// to the pair and the tolerance to the largest of the head: 4e-6 of `peak`.
constexpr double kRelative = 4e-6;

struct Shape {
  int num_heads, num_kv_heads, head_dim, rotary_dim;
  RopePairing pairing;
  bool norms;
};

/// Inputs, and what the op leaves behind.
struct Run {
  std::vector<float> q, k, v;
  std::vector<uint16_t> cache_k, cache_v;
};

struct Problem {
  Problem(const Shape& shape, std::vector<PagedBatch::Sequence> sequences, uint64_t seed)
      : shape(shape), random(seed), paged(std::move(sequences), shape.num_kv_heads, shape.head_dim, random) {
    paged.fill(random, 1, 1);
    q = random.outlier_heavy(paged.tokens(), int64_t{shape.num_heads} * shape.head_dim);
    k = random.outlier_heavy(paged.tokens(), int64_t{shape.num_kv_heads} * shape.head_dim);
    v = random.outlier_heavy(paged.tokens(), int64_t{shape.num_kv_heads} * shape.head_dim);
    q_norm = random.normals(shape.head_dim);
    k_norm = random.normals(shape.head_dim);
    for (int i = 0; i < shape.rotary_dim / 2; ++i) inv_freq.push_back(std::pow(10000.0f, -2.0f * i / shape.rotary_dim));
  }

  template <class Op>
  Run run(const Op& op) {
    Run result = {q, k, v, {}, {}};
    const std::vector<uint16_t> k_before = paged.k(), v_before = paged.v();
    const int64_t hd = shape.head_dim, tokens = paged.tokens();
    op(QkRopeKvArgs{.q = f32_view(result.q.data(), tokens, shape.num_heads * hd),
                    .k = f32_view(result.k.data(), tokens, shape.num_kv_heads * hd),
                    .v = f32_view(result.v.data(), tokens, shape.num_kv_heads * hd),
                    .head_dim = shape.head_dim,
                    .q_norm = shape.norms ? q_norm.data() : nullptr,
                    .k_norm = shape.norms ? k_norm.data() : nullptr,
                    .norm_epsilon = 1e-6f,
                    .pairing = shape.pairing,
                    .rotary_dim = shape.rotary_dim,
                    .inv_freq = inv_freq.data(),
                    .rope_magnitude = magnitude,
                    .cache = paged.cache(),
                    .batch = paged.batch()});
    result.cache_k = paged.k(), result.cache_v = paged.v();
    paged.k() = k_before, paged.v() = v_before;
    return result;
  }

  Shape shape;
  Random random;
  PagedBatch paged;
  std::vector<float> q, k, v, q_norm, k_norm, inv_freq;
  float magnitude = 1.25f;
};

double peak(const std::vector<float>& values) {
  double highest = 0;
  for (float x : values) highest = std::max(highest, std::abs(double{x}));
  return highest;
}

std::vector<float> widened(const std::vector<uint16_t>& halves) {
  std::vector<float> values;
  for (uint16_t bits : halves) values.push_back(f16_to_f32(bits));
  return values;
}

void check_all(const Shape& shape, const std::vector<PagedBatch::Sequence>& sequences, uint64_t seed) {
  Problem problem(shape, sequences, seed);
  const Run expected = problem.run([](const QkRopeKvArgs& args) { reference::qk_rope_kv(args); });
  const std::vector<float> expected_k = widened(expected.cache_k);
  for (const auto& candidate : cpu::qk_rope_kv_table().entries()) {
    if (candidate.reject({cpu::detect_isa(), shape.head_dim, PagedBatch::kBlockSize})) continue;
    if (candidate.name == "qk_rope_kv_reference") continue;
    cpu::RopeCache ropes;
    const Run found = problem.run([&](const QkRopeKvArgs& args) {
      if (args.q.rows > 0) candidate.launch(args, ropes.find_or_make(args), {0, args.q.rows});
    });
    CAPTURE(candidate.name);
    CAPTURE(shape.head_dim);
    CAPTURE(shape.rotary_dim);
    CHECK(difference(expected.q, found.q, {kRelative * peak(expected.q), 0}) == "");
    // An f16 may fall on the other side of a rounding: one ulp, 2^-10 of the value.
    CHECK(difference(expected_k, widened(found.cache_k), {kRelative * peak(problem.k), 0x1p-10}) == "");
    CHECK(expected.cache_v == found.cache_v);  // slots of other tokens included
  }
}

const std::vector<PagedBatch::Sequence> kBatch = {{1, 17}, {0, 5}, {7, 7}, {33, 50}, {1, 1}, {5, 4099}};

}  // namespace

TEST_CASE("every kernel equals the reference: pairings, partial rotation, head sizes, norms") {
  uint64_t seed = 1;
  for (const RopePairing pairing : {RopePairing::half_split, RopePairing::interleaved}) {
    for (const auto& [head_dim, rotary_dim] :
         {std::pair{64, 64}, {64, 16}, {80, 80}, {96, 72}, {128, 128}, {256, 256}, {8, 6}}) {
      for (const bool norms : {false, true}) check_all({9, 3, head_dim, rotary_dim, pairing, norms}, kBatch, ++seed);
    }
  }
}

TEST_CASE("no tokens, one token") {
  check_all({4, 1, 64, 64, RopePairing::half_split, true}, {{0, 3}}, 50);
  check_all({4, 1, 64, 64, RopePairing::half_split, true}, {{1, 3}}, 51);
}

TEST_CASE("the same bits for any number of threads") {
  Problem problem({9, 3, 64, 64, RopePairing::interleaved, true}, kBatch, 60);
  Run first;
  for (int threads : {1, 2, 5}) {
    TestCpu cpu(threads);
    cpu::RopeCache ropes;
    Run found = problem.run([&](const QkRopeKvArgs& args) { cpu::run_qk_rope_kv(cpu.context(), ropes, args); });
    if (first.q.empty()) first = found;
    CHECK(same_bits(first.q, found.q));
    CHECK(first.cache_k == found.cache_k);
    CHECK(first.cache_v == found.cache_v);
  }
}

TEST_CASE("tables of angles are kept while nothing changes, and made anew when anything does") {
  Problem problem({2, 1, 64, 64, RopePairing::half_split, false}, {{5, 5}}, 70);
  cpu::RopeCache ropes;
  problem.run([&](QkRopeKvArgs args) {
    const float* table = ropes.find_or_make(args);
    CHECK(ropes.find_or_make(args) == table);
    const float cosine = table[0];
    CHECK(cosine == 1.25f);

    QkRopeKvArgs other = args;
    other.rope_magnitude = 1.0f;
    CHECK(ropes.find_or_make(other)[0] == 1.0f);
    CHECK(ropes.find_or_make(args) == table);  // two are kept

    std::vector<int32_t> positions(args.batch.positions, args.batch.positions + 5);
    positions[4] = 77;
    other.batch.positions = positions.data();
    CHECK(ropes.find_or_make(other)[4 * 64] == doctest::Approx(std::cos(77.0)));
    positions[4] = 78;  // the same array with other content
    CHECK(ropes.find_or_make(other)[4 * 64] == doctest::Approx(std::cos(78.0)));
    std::vector<float> inv_freq = problem.inv_freq;
    inv_freq[0] = 0.5f;
    other.inv_freq = inv_freq.data();
    CHECK(ropes.find_or_make(other)[4 * 64] == doctest::Approx(std::cos(39.0)));
  });
}

TEST_CASE("a head size that no vector kernel takes goes to the reference") {
  CHECK(cpu::qk_rope_kv_table().select({cpu::Isa::avx512, 60, 16}).name == "qk_rope_kv_reference");
  Problem problem({2, 1, 12, 12, RopePairing::half_split, true}, {{5, 9}}, 80);
  const Run expected = problem.run([](const QkRopeKvArgs& args) { reference::qk_rope_kv(args); });
  TestCpu cpu;
  cpu::RopeCache ropes;
  const Run found = problem.run([&](const QkRopeKvArgs& args) {
    CHECK(cpu::run_qk_rope_kv(cpu.context(), ropes, args) == "qk_rope_kv_reference");
  });
  CHECK(expected.q == found.q);
}
