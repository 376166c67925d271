#include <doctest/doctest.h>

#include <vector>

#include "cpu/embed.h"
#include "quant/format.h"
#include "support/compare.h"
#include "support/cpu_context.h"
#include "support/random.h"

using namespace imp;
using namespace imp::test;

TEST_CASE("rows of every format, scaled, for any number of threads") {
  Random random(1);
  constexpr int64_t kRows = 37, kCols = 512;
  for (const FormatInfo& format : all_formats()) {
    const int64_t bytes = row_bytes(format.format, kCols);
    std::vector<uint8_t> table(kRows * bytes);
    // Bytes below 0x40 keep every f16, bf16, f32 and e8m0 scale finite.
    for (uint8_t& byte : table) byte = static_cast<uint8_t>(random.integer(0, 0x3f));
    std::vector<int32_t> ids(65);
    for (int32_t& id : ids) id = static_cast<int32_t>(random.integer(0, kRows - 1));
    ids[3] = kRows - 1;
    const std::vector<int32_t> drawn = {0, ids[40], 1};
    std::vector<int32_t> asked = ids;
    asked[40] = -2;  // taken from `drawn`
    for (int64_t tokens : {0, 1, 7, 65}) {
      std::vector<float> expected(tokens * kCols);
      for (int64_t t = 0; t < tokens; ++t) {
        dequantize(format.format, &table[ids[t] * bytes], &expected[t * kCols], kCols);
        for (int64_t c = 0; c < kCols; ++c) expected[t * kCols + c] *= 22.5f * 0.5f;
      }
      for (int threads : {1, 3}) {
        TestCpu cpu(threads);
        std::vector<float> found(tokens * kCols, -1.0f);
        const WeightView weight = {
            .data = table.data(), .format = format.format, .rows = kRows, .cols = kCols, .scale = 0.5f};
        cpu::run_embed(cpu.context(),
                       {weight, asked.data(), 22.5f, f32_view(found.data(), tokens, kCols), drawn.data()});
        CAPTURE(format.name);
        CHECK(same_bits(expected, found));
      }
    }
  }
}
