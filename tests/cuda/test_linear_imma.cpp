#include <doctest/doctest.h>

#include <set>

#include "support/compare.h"
#include "support/few.h"
#include "support/linear_call.h"
#include "support/prefill_call.h"

using namespace imp;
using namespace imp::cuda;
using namespace imp::test;

namespace {

void check_tiles(std::initializer_list<WeightFormat> formats) {
  Random random(10);
  LinearWorkspace workspace;
  const auto& with = workspace.device.context();
  for (WeightFormat format : formats) {
    const int64_t unit = info(format).block_elements;
    std::set<int> ran;
    const int64_t odd = unit == 32 ? 1120 : 1280;
    for (int64_t k : few({unit, odd, int64_t{2304}}, {odd})) {
      const Operand a(format, 145, k, random, with), b(format, 145, k, random, with), c(format, 33, k, random, with);
      for (int64_t m : few({1, 7, 31, 130}, {70})) {
        for (const LinearOptions& options :
             {LinearOptions{.pdl = true}, LinearOptions{.norm = true, .rows = true, .bias = true, .accumulate = true},
              LinearOptions{.norm = true, .bias = true, .gated = true, .pdl = true}}) {
          const std::vector<const Operand*> weights = options.gated ? std::vector{&a, &b} : std::vector{&a, &c};
          LinearCall call(m, weights, options, random);
          for (int tile = 0; tile < kImmaTiles; ++tile) {
            if (imma_reject_tile(tile, packed_layout_of(format), workspace.device.max_shared_bytes)) continue;
            for (int sms : {132, 3}) {  // few: blocks have several tiles; many: several blocks share one
              std::vector<std::vector<float>> y;
              call.run_with(workspace, y, [&](LinearContext context, const LinearArgs& args) {
                context.launch.num_sms = sms;
                gemm_imma_tile(tile, packed_layout_of(format), args, context.imma, context.launch);
              });
              CAPTURE(info(format).name);
              CAPTURE(tile);
              CAPTURE(sms);
              CAPTURE(k);
              CAPTURE(m);
              CAPTURE(options.gated);
              CAPTURE(options.accumulate);
              CHECK(call.check(y, std::vector<Arithmetic>(weights.size(), Arithmetic::int8)) == "");
              ran.insert(tile);
            }
          }
        }
      }
    }
    CHECK(ran.size() >= kImmaTiles - 1);  // the widest may not fit
  }
}

}  // namespace

TEST_CASE("every tile of the int8 tensor-core product, at shapes that fill none of them: Q8_0, Q4_K, Q6_K") {
  check_tiles({WeightFormat::q8_0, WeightFormat::q4_k, WeightFormat::q6_k});
}
TEST_CASE("every tile of the int8 tensor-core product: five bits") {
  check_tiles({WeightFormat::q5_k, WeightFormat::q5_0, WeightFormat::q5_1});
}
TEST_CASE("every tile of the int8 tensor-core product: two and three bits") {
  check_tiles({WeightFormat::q3_k, WeightFormat::q2_k});
}
TEST_CASE("every tile of the int8 tensor-core product: nibbles") {
  check_tiles({WeightFormat::q4_0, WeightFormat::q4_1, WeightFormat::iq4_nl});
}
TEST_CASE("every tile of the int8 tensor-core product: nibbles of blocks with a scale of their own kind") {
  check_tiles({WeightFormat::iq4_xs, WeightFormat::mxfp4, WeightFormat::nvfp4});
}

TEST_CASE("the int8 tensor-core product takes bf16 rows and gives gated results in bf16") {
  Random random(11);
  LinearWorkspace workspace;
  const int64_t m = 40, k = 512, n = 136;
  const auto [wide, narrow] = bf16_values(random, m, k);
  const DeviceArray<float> x(wide);
  const DeviceArray<uint16_t> x_bf16(narrow);
  for (WeightFormat format : {WeightFormat::q8_0, WeightFormat::q4_k, WeightFormat::q6_k, WeightFormat::q5_1}) {
    const Operand gate(format, n, k, random, workspace.device.context()),
        up(format, n, k, random, workspace.device.context());
    CAPTURE(info(format).name);
    const PrefillCall plain{.workspace = workspace, .weights = {&gate}, .m = m, .bias = true, .candidate = "gemm_imma"};
    CHECK(same_bits(plain.run(x_bf16.data(), DType::bf16, DType::f32), plain.run(x.data(), DType::f32, DType::f32)));
    const PrefillCall gated{
        .workspace = workspace, .weights = {&gate, &up}, .m = m, .bias = true, .gated = true, .candidate = "gemm_imma"};
    std::vector<float> rounded = gated.run(x.data(), DType::f32, DType::f32);
    for (float& y : rounded) y = bf16_to_f32(f32_to_bf16(y));
    CHECK(same_bits(gated.run(x_bf16.data(), DType::bf16, DType::bf16), rounded));
  }
}
