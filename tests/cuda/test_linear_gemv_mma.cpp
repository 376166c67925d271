#include <doctest/doctest.h>

#include "linear/gemv_mma.h"
#include "support/compare.h"
#include "support/few.h"
#include "support/linear_call.h"

using namespace imp;
using namespace imp::cuda;
using namespace imp::test;

TEST_CASE("Q4_K and Q6_K outputs are one launch of the GEMV of tensor cores, Q8_0 and Q4_K are two") {
  Random random(17);
  LinearWorkspace workspace;
  const auto& with = workspace.device.context();
  using F = WeightFormat;
  for (const auto& [q, k, v, launches] : {std::tuple{F::q4_k, F::q4_k, F::q6_k, 1},
                                          {F::q6_k, F::q4_k, F::q4_k, 1},
                                          {F::q4_k, F::q6_k, F::q4_k, 1},
                                          {F::q8_0, F::q8_0, F::q4_k, 2}}) {
    for (int64_t cols : {256, 1280, 2048}) {
      const Operand wq(q, 531, cols, random, with), wk(k, 1, cols, random, with), wv(v, 67, cols, random, with);
      for (int64_t m : {3, 12}) {
        workspace.device.launches.clear();
        LinearCall call(m, {&wq, &wk, &wv}, {.norm = true, .bias = true, .pdl = true}, random);
        std::vector<std::vector<float>> y;
        call.run(workspace, "gemv_mma", y);
        CAPTURE(info(q).name);
        CAPTURE(info(v).name);
        CAPTURE(cols);
        CAPTURE(m);
        CHECK(call.check(y, std::vector(3, Arithmetic::int8)) == "");
        CHECK(workspace.device.launches ==
              std::map<std::string, int64_t>{{"gemv_mma", launches}, {"quantize_tokens", launches}});
      }
    }
  }
}

TEST_CASE("the GEMV of tensor cores at shapes that fill nothing and with few SMs or many") {
  Random random(16);
  LinearWorkspace workspace;
  const auto& with = workspace.device.context();
  for (WeightFormat format : {WeightFormat::q8_0, WeightFormat::q4_k, WeightFormat::q6_k}) {
    for (int64_t k : few({256, 768, 2560, 4096}, {768})) {
      const Operand a(format, 145, k, random, with), b(format, 145, k, random, with), c(format, 33, k, random, with);
      for (int64_t m : few({1, 2, 8, 9, 16}, {3, 16})) {
        for (const LinearOptions& options :
             {LinearOptions{.pdl = true}, LinearOptions{.norm = true, .rows = true, .bias = true, .accumulate = true},
              LinearOptions{.norm = true, .bias = true, .gated = true, .pdl = true}}) {
          const std::vector<const Operand*> weights = options.gated ? std::vector{&a, &b} : std::vector{&a, &c};
          LinearCall call(m, weights, options, random);
          for (int sms : {132, 5}) {  // few: a block has more groups of rows than warps
            std::vector<std::vector<float>> y, again;
            const auto run = [&](std::vector<std::vector<float>>& to) {
              call.run_with(workspace, to, [&](LinearContext context, const LinearArgs& args) {
                context.launch.num_sms = sms;
                const PackedLayout layouts[] = {packed_layout_of(format), packed_layout_of(format)};
                gemv_mma(layouts, args, context.imma, context.launch);
              });
            };
            run(y);
            run(again);
            CAPTURE(info(format).name);
            CAPTURE(sms);
            CAPTURE(k);
            CAPTURE(m);
            CAPTURE(options.gated);
            CAPTURE(options.accumulate);
            CHECK(call.check(y, std::vector<Arithmetic>(weights.size(), Arithmetic::int8)) == "");
            for (size_t i = 0; i < y.size(); ++i) CHECK(same_bits(y[i], again[i]));
          }
        }
      }
    }
  }
}
