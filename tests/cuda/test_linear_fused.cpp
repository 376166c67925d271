#include <doctest/doctest.h>

#include <tuple>

#include "support/compare.h"
#include "support/prefill_call.h"

using namespace imp;
using namespace imp::cuda;
using namespace imp::test;

TEST_CASE("gemm_wgmma: three outputs in several formats, gated and bf16, beside expanding first") {
  Random random(17);
  LinearWorkspace workspace;
  if (workspace.device.capability != 90) return;
  const auto& with = workspace.device.context();
  const int64_t m = 70, k = 512;
  const auto [wide, narrow] = bf16_values(random, m, k);
  const DeviceArray<float> x(wide);
  const DeviceArray<uint16_t> x_bf16(narrow);
  using F = WeightFormat;
  for (const auto& [fq, fk, fv] :
       {std::tuple{F::q4_k, F::q4_k, F::q6_k}, {F::q8_0, F::q8_0, F::q8_0}, {F::q6_k, F::q5_k, F::q4_k}}) {
    const Operand wq(fq, 264, k, random, with), wk(fk, 64, k, random, with), wv(fv, 67, k, random, with);
    for (bool accumulate : {false, true}) {
      PrefillCall prefill{
          .workspace = workspace, .weights = {&wq, &wk, &wv}, .m = m, .bias = true, .accumulate = accumulate};
      const std::vector<float> expected = prefill.run(x.data(), DType::f32, DType::f32);
      prefill.candidate = "gemm_wgmma";
      CHECK(distance(prefill.run(x_bf16.data(), DType::bf16, DType::f32), expected) < 1e-5);
      CHECK(same_bits(prefill.run(x.data(), DType::f32, DType::f32),
                      prefill.run(x_bf16.data(), DType::bf16, DType::f32)));
    }
  }
  const Operand gate(F::q4_k, 136, k, random, with), up(F::q4_k, 136, k, random, with);
  PrefillCall gated{.workspace = workspace, .weights = {&gate, &up}, .m = m, .gated = true, .candidate = "gemm_wgmma"};
  std::vector<float> rounded = gated.run(x.data(), DType::f32, DType::f32);
  for (float& y : rounded) y = bf16_to_f32(f32_to_bf16(y));
  CHECK(same_bits(gated.run(x_bf16.data(), DType::bf16, DType::bf16), rounded));
}

TEST_CASE("gemm.q4k_hmma_enabled: the numbers of expanding to bf16 first, at any number of tokens") {
  Random random(18);
  LinearWorkspace workspace;
  const auto& with = workspace.device.context();
  const int64_t k = 768, n = 328;
  const Operand q(WeightFormat::q4_k, n, k, random, with), up(WeightFormat::q4_k, n, k, random, with),
      v(WeightFormat::q6_k, 67, k, random, with);
  LinearSwitches on;
  on.q4k_hmma = true;
  for (int64_t m : {32, 33, 64, 100, 160, 257}) {
    const DeviceArray<float> x(bf16_values(random, m, k).first);
    for (const auto& weights : {std::vector<const Operand*>{&q}, {&q, &up}, {&q, &up, &v}}) {
      for (bool gated : {false, true}) {
        if (gated && weights.size() != 2) continue;
        PrefillCall prefill{.workspace = workspace, .weights = weights, .m = m, .bias = true, .gated = gated};
        const std::vector<float> expected = prefill.run(x.data(), DType::f32, DType::f32);
        prefill.switches = on, prefill.candidate = {};
        workspace.device.launches.clear();
        const std::vector<float> found = prefill.run(x.data(), DType::f32, DType::f32);
        CAPTURE(m);
        CAPTURE(weights.size());
        CAPTURE(gated);
        CHECK(workspace.device.launches["gemm_hmma_q4k"] == 1);
        // The activation's operands are rounded to bf16 on the other way, as v's are not expanded on this one.
        if (!gated && weights.size() < 3) CHECK(distance(found, expected) < 1e-5);
        CHECK(distance(found, expected) < (gated ? 5e-3 : weights.size() == 3 ? 2e-2 : 1e-3));
      }
    }
  }
}
