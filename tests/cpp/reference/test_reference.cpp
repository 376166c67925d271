#include <doctest/doctest.h>

#include <array>

#include "core/half.h"
#include "reference/reference.h"
#include "support/compare.h"
#include "support/golden.h"
#include "support/paged_batch.h"

using namespace imp;
using namespace imp::test;

namespace {

// Both sides compute in float64 and round once to fp32: half an ulp each, 2^-24, and a little for sums that cancel.
constexpr Tolerance kTolerance = {.absolute = 1e-6, .relative = 2.4e-7};

Golden golden(const char* op) { return Golden(std::string(IMP_TEST_DATA) + "/ops/" + op + ".txt"); }

TensorView view(std::vector<float>& values, int64_t rows) {
  return f32_view(values.data(), rows, static_cast<int64_t>(values.size()) / rows);
}

WeightView weight(const std::vector<float>& values, int64_t cols) {
  return {.data = values.data(),
          .format = WeightFormat::f32,
          .rows = static_cast<int64_t>(values.size()) / cols,
          .cols = cols};
}

}  // namespace

TEST_CASE("rms_norm") {
  Golden g = golden("rms_norm");
  std::vector<float> y(g["x"].size()), sum(y.size(), 2.0f), expected_sum = g["y"];
  reference::rms_norm({view(g["x"], 3), g["weight"].data(), g["epsilon"][0], view(y, 3)});
  CHECK(difference(g["y"], y, kTolerance) == "");
  reference::rms_norm({view(g["x"], 3), g["weight"].data(), g["epsilon"][0], {}, view(sum, 3)});
  for (float& value : expected_sum) value += 2.0f;
  CHECK(difference(expected_sum, sum, kTolerance) == "");
}

TEST_CASE("softcap") {
  Golden g = golden("softcap");
  std::vector<float> x = g["x"];
  reference::softcap({view(x, 2), g["cap"][0]});
  CHECK(difference(g["y"], x, kTolerance) == "");
}

TEST_CASE("embed") {
  const std::vector<float> table = {1, 2, 3, 4, 5, 6};
  const int32_t ids[] = {2, 0, 2};
  std::vector<float> out(6);
  reference::embed({weight(table, 2), ids, 10.0f, view(out, 3)});
  CHECK(out == std::vector<float>{50, 60, 10, 20, 50, 60});
}

TEST_CASE("linear: plain, normed, accumulated, chosen rows, gated, skipping") {
  Golden g = golden("linear");
  std::vector<float> y0(20), y1(12);
  const auto run = [&](LinearArgs args) {
    const std::array<LinearOutput, 2> outputs = {LinearOutput{weight(g["w0"], 64), g["bias"].data(), view(y0, 4)},
                                                 LinearOutput{args.gated ? weight(g["w2"], 64) : weight(g["w1"], 64),
                                                              nullptr, args.gated ? TensorView{} : view(y1, 4)}};
    args.x = view(g["x"], 4);
    args.outputs = outputs;
    reference::linear(args);
  };
  run({});
  CHECK(difference(g["plain0"], y0, kTolerance) == "");
  CHECK(difference(g["plain1"], y1, kTolerance) == "");

  LinearArgs accumulating;
  accumulating.accumulate = true;
  y0.assign(20, 1.5f);
  run(accumulating);
  CHECK(difference(g["accumulated0"], y0, kTolerance) == "");

  LinearArgs skipping;
  skipping.skip_threshold = g["threshold"][0];
  REQUIRE(g["num_quiet"][0] > 0);
  run(skipping);
  CHECK(difference(g["skipped1"], y1, kTolerance) == "");

  LinearArgs normed;
  normed.norm_weight = g["norm"].data();
  normed.norm_epsilon = g["epsilon"][0];
  run(normed);
  CHECK(difference(g["normed0"], y0, kTolerance) == "");

  LinearArgs chosen = normed;
  const int32_t rows[] = {3, 0};
  chosen.row_indices = rows;
  chosen.num_rows = 2;
  y0.assign(20, -1.0f);
  run(chosen);
  CHECK(difference(g["rows0"], std::span(y0).first(10), kTolerance) == "");
  CHECK(y0[10] == -1.0f);

  for (const Activation activation : {Activation::silu, Activation::gelu_tanh}) {
    LinearArgs gated = normed;
    gated.gated = true;
    gated.activation = activation;
    run(gated);
    CHECK(difference(g[activation == Activation::silu ? "silu" : "gelu"], y0, kTolerance) == "");
  }
}

TEST_CASE("qk_rope_kv: norms, pairings, partial rotation, places in the cache") {
  Golden g = golden("qk_rope_kv");
  // Six sequences of one new token each, so that every position has its own block table.
  std::vector<PagedBatch::Sequence> sequences;
  for (float position : g["positions"]) sequences.push_back({1, static_cast<int>(position) + 1});
  for (const int rotary_dim : {16, 6}) {
    for (const bool interleaved : {false, true}) {
      for (const bool normed : {false, true}) {
        Random random(1);
        PagedBatch paged(sequences, 1, 16, random);
        std::vector<float> q = g["q"], k = g["k"], v = g["v"];
        reference::qk_rope_kv({.q = view(q, 6),
                               .k = view(k, 6),
                               .v = view(v, 6),
                               .head_dim = 16,
                               .q_norm = normed ? g["q_norm"].data() : nullptr,
                               .k_norm = normed ? g["k_norm"].data() : nullptr,
                               .norm_epsilon = 1e-6f,
                               .pairing = interleaved ? RopePairing::interleaved : RopePairing::half_split,
                               .rotary_dim = rotary_dim,
                               .inv_freq = g[cat("inv_freq_", rotary_dim)].data(),
                               .rope_magnitude = 1.25f,
                               .cache = paged.cache(),
                               .batch = paged.batch()});
        const std::string name = cat(rotary_dim, "_", int{interleaved}, "_", int{normed});
        CAPTURE(name);
        CHECK(difference(g["out_q_" + name], q, kTolerance) == "");
        std::vector<float> cached_k, cached_v;
        for (int s = 0; s < 6; ++s) {
          const int64_t at = paged.offset(s, sequences[s].context - 1, 0);
          for (int d = 0; d < 16; ++d) {
            cached_k.push_back(f16_to_f32(paged.k()[at + d]));
            cached_v.push_back(f16_to_f32(paged.v()[at + d]));
          }
        }
        CHECK(difference(g["cache_k_" + name], cached_k, {.absolute = 1e-6, .relative = 0x1p-11 * 1.001}) == "");
        CHECK(difference(g["cache_v"], cached_v, {}) == "");
        int64_t written = 0;
        for (uint16_t bits : paged.k()) written += bits != 0x7e00;
        CHECK(written == 6 * 16);  // and nothing else
      }
    }
  }
}

TEST_CASE("attention: grouping, causality, softcap, windows") {
  Golden g = golden("attention");
  Random random(2);
  PagedBatch paged({{3, 20}, {5, 37}}, 2, 16, random);
  paged.fill(random, 1, 1);
  for (int position = 0; position < 37; ++position) {
    for (int h = 0; h < 2; ++h) {
      for (int d = 0; d < 16; ++d) {
        const int64_t from = (position * 2 + h) * 16 + d, to = paged.offset(1, position, h) + d;
        paged.k()[to] = f32_to_f16(g["k"][from]);
        paged.v()[to] = f32_to_f16(g["v"][from]);
        REQUIRE(f16_to_f32(paged.k()[to]) == g["k"][from]);
      }
    }
  }
  std::vector<float> q(3 * 96, 0.5f), out(8 * 96);
  q.insert(q.end(), g["q"].begin(), g["q"].end());
  const std::pair<float, int> cases[] = {{0.0f, 0}, {20.0f, 0}, {0.0f, 1}, {0.0f, 9}, {5.0f, 36}};
  for (const auto& [softcap, window] : cases) {
    reference::attention({.q = view(q, 8),
                          .out = view(out, 8),
                          .num_heads = 6,
                          .scale = 0.25f,
                          .softcap = softcap,
                          .sliding_window = window,
                          .cache = paged.cache(),
                          .batch = paged.batch()});
    CAPTURE(softcap);
    CAPTURE(window);
    CHECK(difference(g[cat("out_", static_cast<int>(softcap), "_", window)], std::span(out).subspan(3 * 96),
                     kTolerance) == "");
  }
}
