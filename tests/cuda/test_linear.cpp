// Linears by every candidate of the table, and as the table chooses. What is of one family alone is in
// test_linear_<family>.cpp.
#include <doctest/doctest.h>

#include <cmath>
#include <set>

#include "linear/gemm_wgmma.h"
#include "linear/gemv_mma.h"
#include "support/compare.h"
#include "support/few.h"
#include "support/linear_call.h"

using namespace imp;
using namespace imp::cuda;
using namespace imp::test;

namespace {

const std::vector<int64_t> kTokens = few<int64_t>({1, 2, 3, 5, 8, 9, 16, 40, 130}, {1, 2, 3, 8, 40, 130});

}  // namespace

TEST_CASE("every candidate of every format computes the product at every number of tokens") {
  Random random(1);
  LinearWorkspace workspace;
  for (const FormatInfo& format : all_formats()) {
    std::set<std::string_view> ran;
    std::set<int64_t> widths;
    const int64_t unit = std::max(32, format.block_elements);
    for (int64_t k : few({32, 352, 1056, 2048}, {352, 2048})) widths.insert((k + unit - 1) / unit * unit);
    for (int64_t k : widths) {
      for (int64_t n : few({1, 37}, {37})) {
        const Operand w(format.format, n, k, random, workspace.device.context());
        for (const auto& entry : linear_table().entries()) {
          for (int64_t m : kTokens) {
            if (!can_run(workspace, entry.name, w, m) || (n == 1 && m > 3)) continue;
            LinearCall call(m, {&w}, {}, random);
            CAPTURE(format.name);
            CAPTURE(entry.name);
            CAPTURE(k);
            CAPTURE(n);
            CAPTURE(m);
            CHECK(run_and_check(workspace, call, entry.name, 1) == "");
            ran.insert(entry.name);
          }
        }
      }
    }
    CAPTURE(format.name);
    std::set<std::string_view> expected = {"gemv_rows", "dequant_gemm_bf16"};
    if (format.block_elements > 1) {
      expected = {"gemv_dp4a", "gemm_imma", "dequant_gemm_bf16"};
      const bool wgmma = workspace.device.capability == 90 && !wgmma_reject(packed_layout_of(format.format));
      if (wgmma) expected.insert("gemm_wgmma");
      if (!gemv_mma_reject(packed_layout_of(format.format), 3, 2048, workspace.device.max_shared_bytes))
        expected.insert("gemv_mma");
    }
    CHECK(ran == expected);
  }
}

TEST_CASE("long rows, many rows") {
  Random random(2);
  LinearWorkspace workspace(1 << 20);  // a scratch smaller than the weight: the GEMM goes in slices
  for (WeightFormat format :
       {WeightFormat::q8_0, WeightFormat::q4_k, WeightFormat::q6_k, WeightFormat::q5_0, WeightFormat::bf16,
        WeightFormat::q4_0, WeightFormat::q4_1, WeightFormat::iq4_xs, WeightFormat::mxfp4, WeightFormat::nvfp4,
        WeightFormat::q5_k, WeightFormat::q3_k, WeightFormat::q2_k}) {
    for (const auto& [n, k] :
         few<std::pair<int64_t, int64_t>>({{130, 12288}, {9001, 256}}, {{130, 3072}, {2001, 256}})) {
      const Operand w(format, n, k, random, workspace.device.context());
      for (const auto& entry : linear_table().entries()) {
        for (int64_t m : {1, 4, 8, 11, 33}) {
          if (!can_run(workspace, entry.name, w, m)) continue;
          LinearCall call(m, {&w}, {}, random);
          CAPTURE(info(format).name);
          CAPTURE(entry.name);
          CAPTURE(n);
          CAPTURE(m);
          CHECK(run_and_check(workspace, call, entry.name, 1) == "");
        }
      }
    }
  }
}

TEST_CASE("norm, chosen rows, bias, residual, activation") {
  Random random(3);
  LinearWorkspace workspace;
  for (const FormatInfo& format : all_formats()) {
    // Rows of whole strips (1024) and others take different ways through the GEMVs.
    const Operand a(format.format, 37, 768, random, workspace.device.context());
    const Operand b(format.format, 37, 768, random, workspace.device.context());
    const Operand whole_a(format.format, 37, 2048, random, workspace.device.context());
    const Operand whole_b(format.format, 37, 2048, random, workspace.device.context());
    for (const auto& entry : linear_table().entries()) {
      for (int64_t m : few({1, 2, 3, 8, 40, 100}, {1, 3, 40})) {
        if (!can_run(workspace, entry.name, a, m)) continue;
        const LinearOptions all = {.norm = true, .rows = true, .bias = true, .accumulate = true},
                            gated = {.norm = true,
                                     .bias = true,
                                     .gated = true,
                                     .pdl = true,
                                     .activation = Activation::gelu_tanh};
        for (const LinearOptions& options :
             few({LinearOptions{.norm = true}, LinearOptions{.rows = true}, LinearOptions{.bias = true},
                  LinearOptions{.accumulate = true}, LinearOptions{.gated = true}, all, gated},
                 {all, gated})) {
          for (const auto& [first, second] : {std::pair{&a, &b}, {&whole_a, &whole_b}}) {
            LinearCall call(m, options.gated ? std::vector{first, second} : std::vector{first}, options, random);
            CAPTURE(format.name);
            CAPTURE(entry.name);
            CAPTURE(m);
            CAPTURE(first->host.view.cols);
            CAPTURE(options.norm);
            CAPTURE(options.rows);
            CAPTURE(options.bias);
            CAPTURE(options.accumulate);
            CAPTURE(options.gated);
            CHECK(run_and_check(workspace, call, entry.name, options.gated ? 2 : 1) == "");
          }
        }
      }
    }
  }
}

TEST_CASE("three outputs, of one format and of several, as the table chooses") {
  Random random(4);
  LinearWorkspace workspace;
  const auto& with = workspace.device.context();
  using F = WeightFormat;
  for (const auto& [q, k, v] : {std::tuple{F::q4_k, F::q4_k, F::q6_k},
                                {F::q4_k, F::q4_k, F::q4_k},
                                {F::q8_0, F::f16, F::q8_0},
                                {F::bf16, F::bf16, F::bf16},
                                {F::q6_k, F::q5_0, F::q4_1},
                                {F::iq4_xs, F::iq4_xs, F::q5_k},
                                {F::q4_0, F::iq4_nl, F::q4_0},
                                {F::q5_k, F::q5_k, F::q6_k},
                                {F::q6_k, F::q5_k, F::q4_k},
                                {F::q3_k, F::q3_k, F::q4_k},
                                {F::mxfp4, F::nvfp4, F::mxfp4}}) {
    const Operand wq(q, 67, 512, random, with), wk(k, 21, 512, random, with), wv(v, 21, 512, random, with);
    for (int64_t m : {1, 3, 8, 40}) {
      LinearCall call(m, {&wq, &wk, &wv}, {.norm = true, .bias = true, .pdl = m == 1}, random);
      std::vector<std::vector<float>> y;
      call.run(workspace, {}, y);
      std::vector<Arithmetic> arithmetic;
      for (F format : {q, k, v}) arithmetic.push_back(chosen_arithmetic(workspace, format, m, 67, 512));
      CAPTURE(info(q).name);
      CAPTURE(info(v).name);
      CAPTURE(m);
      CHECK(call.check(y, arithmetic) == "");
    }
  }
}

TEST_CASE("a gate and an up of different formats") {
  Random random(5);
  LinearWorkspace workspace;
  const auto& with = workspace.device.context();
  const Operand gate(WeightFormat::q4_k, 50, 512, random, with), up(WeightFormat::q6_k, 50, 512, random, with);
  for (int64_t m : {1, 8, 40}) {
    LinearCall call(m, {&gate, &up}, {.norm = true, .gated = true}, random);
    std::vector<std::vector<float>> y;
    call.run(workspace, {}, y);
    CAPTURE(m);
    CHECK(call.check(y, {Arithmetic::bf16, Arithmetic::bf16}) == "");
  }
}

TEST_CASE("a weight's own scale multiplies it") {
  Random random(6);
  LinearWorkspace workspace;
  const Operand w(WeightFormat::nvfp4, 37, 512, random, workspace.device.context(), 0.37f);
  for (const auto& entry : linear_table().entries()) {
    for (int64_t m : {1, 5, 16}) {
      if (!can_run(workspace, entry.name, w, m)) continue;
      LinearCall call(m, {&w}, {.bias = true}, random);
      CAPTURE(entry.name);
      CAPTURE(m);
      CHECK(run_and_check(workspace, call, entry.name, 1) == "");
    }
  }
}

TEST_CASE("scales that are not finite spoil their own rows alone") {
  Random random(16);
  LinearWorkspace workspace;
  for (WeightFormat format :
       {WeightFormat::q4_0, WeightFormat::q4_1, WeightFormat::iq4_nl, WeightFormat::iq4_xs, WeightFormat::q5_k,
        WeightFormat::q5_0, WeightFormat::q5_1, WeightFormat::q3_k, WeightFormat::q2_k}) {
    const int64_t n = 37, k = 1280;
    WeightMatrix host(format, n, k, random);
    const int64_t row = row_bytes(format, k);
    for (int64_t r : {3, 36}) {  // d of the row's second block
      const uint16_t bad = r == 3 ? 0x7c00 : 0x7e00;
      std::memcpy(&host.bytes[r * row + info(format).block_bytes + f16_fields(format)[0]], &bad, 2);
    }
    const PackedMatrix w(host, workspace.device.context());
    for (int64_t m : {1, 2, 5, 8, 40}) {
      const DeviceArray<float> x(random.outlier_heavy(m, k)), y(std::vector<float>(m * n, 0));
      for (const auto& entry : linear_table().entries()) {
        LinearProblem problem = problem_on(workspace, format, m, n, k);
        if (problem.capability == 90) problem.capability = 120;  // all kernels but those of wgmma
        bool runs = false;
        for (const Verdict& verdict : linear_table().explain(problem))
          if (verdict.name == entry.name) runs = !verdict.reason;
        if (!runs) continue;
        const std::vector<LinearOutput> outputs = {{w.view(), nullptr, {y.data(), DType::f32, m, n, n}}};
        run_linear(workspace.context(), {.x = {x.data(), DType::f32, m, k, k}, .outputs = outputs}, entry.name);
        int64_t wrong = 0;
        const std::vector<float> found = y.download();
        for (int64_t t = 0; t < m; ++t)
          for (int64_t r = 0; r < n; ++r) wrong += std::isfinite(found[t * n + r]) == (r == 3 || r == 36);
        CAPTURE(info(format).name);
        CAPTURE(entry.name);
        CAPTURE(m);
        CHECK(wrong == 0);
      }
    }
  }
}

TEST_CASE("what rounding the activations costs against exact ones") {
  Random random(7);
  LinearWorkspace workspace;
  for (const FormatInfo& format : all_formats()) {
    const Operand w(format.format, 64, 2048, random, workspace.device.context());
    for (int64_t m : {4, 16}) {
      LinearCall call(m, {&w}, {.norm = true}, random);
      std::vector<std::vector<float>> y;
      call.run(workspace, {}, y);
      const Arithmetic arithmetic = chosen_arithmetic(workspace, format.format, m, 64, 2048);
      const double allowed = arithmetic == Arithmetic::bf16 ? 6e-3 : arithmetic == Arithmetic::exact ? 1e-5 : 2.5e-2;
      CAPTURE(format.name);
      CAPTURE(m);
      CHECK(call.distance_to_reference(y) < allowed);
    }
  }
}

TEST_CASE("results repeat bit for bit, and tokens of a batch do not touch each other") {
  Random random(8);
  LinearWorkspace workspace;
  for (WeightFormat format :
       {WeightFormat::q4_k, WeightFormat::q8_0, WeightFormat::f16, WeightFormat::q4_0, WeightFormat::iq4_xs}) {
    const Operand w(format, few(3001, 601), 1024, random, workspace.device.context());
    for (int64_t m : {1, 7, 40, 128}) {
      LinearCall call(m, {&w}, {.norm = true, .pdl = true}, random);
      std::vector<std::vector<float>> first, again;
      call.run(workspace, {}, first);
      for (int i = 0; i < few(5, 1); ++i) {
        call.run(workspace, {}, again);
        CHECK(same_bits(std::span<const float>(first[0]).first(few(3001, 601)),
                        std::span<const float>(again[0]).first(few(3001, 601))));
      }
    }
  }
}

TEST_CASE("a NaN or infinity in one token's activations shows in all its results and nowhere else") {
  Random random(9);
  LinearWorkspace workspace;
  for (WeightFormat format :
       {WeightFormat::q8_0, WeightFormat::q4_k, WeightFormat::q6_k, WeightFormat::q5_1, WeightFormat::f16,
        WeightFormat::q4_0, WeightFormat::q4_1, WeightFormat::iq4_xs, WeightFormat::mxfp4, WeightFormat::nvfp4,
        WeightFormat::q5_k, WeightFormat::q5_0, WeightFormat::q3_k, WeightFormat::q2_k}) {
    const Operand w(format, 20, 512, random, workspace.device.context());
    for (float bad : {kNan, INFINITY, -INFINITY}) {
      for (int64_t m : {1, 3, 9}) {
        LinearCall call(m, {&w}, {}, random);
        call.spoil(m - 1, 77, bad);
        std::vector<std::vector<float>> y;
        call.run(workspace, {}, y);
        int64_t wrong = 0;
        for (int64_t t = 0; t < m; ++t)
          for (int64_t r = 0; r < 20; ++r) wrong += std::isfinite(y[0][t * 25 + r]) == (t == m - 1);
        CAPTURE(info(format).name);
        CAPTURE(bad);
        CAPTURE(m);
        CHECK(wrong == 0);
      }
    }
  }
}
