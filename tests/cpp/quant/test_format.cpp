#include <doctest/doctest.h>

#include <set>

#include "quant/format.h"

using namespace imp;

TEST_CASE("the table is in enum order and its names and ids are unique") {
  REQUIRE(all_formats().size() == kNumWeightFormats);
  std::set<std::string_view> names;
  std::set<uint32_t> ids;
  for (int i = 0; i < kNumWeightFormats; ++i) {
    const FormatInfo& format = all_formats()[i];
    CHECK(static_cast<int>(format.format) == i);
    CHECK(&info(format.format) == &format);
    CHECK(format_of_ggml_type(format.ggml_type) == format.format);
    CHECK(names.insert(format.name).second);
    CHECK(ids.insert(format.ggml_type).second);
  }
}

TEST_CASE("ids that are no weight format of ours are not found") {
  for (const uint32_t id : {4u, 5u, 9u, 15u, 16u, 24u, 26u, 31u, 34u, 41u, 255u, 0xffffffffu}) {
    CHECK_FALSE(format_of_ggml_type(id).has_value());
  }
}

TEST_CASE("bytes of a row") {
  CHECK(row_bytes(WeightFormat::f32, 7) == 28);
  CHECK(row_bytes(WeightFormat::bf16, 7) == 14);
  CHECK(row_bytes(WeightFormat::q8_0, 64) == 68);
  CHECK(row_bytes(WeightFormat::q4_k, 512) == 288);
  CHECK(row_bytes(WeightFormat::q6_k, 256) == 210);
  CHECK(row_bytes(WeightFormat::mxfp4, 32) == 17);
  CHECK(row_bytes(WeightFormat::nvfp4, 128) == 72);
  CHECK(row_bytes(WeightFormat::q4_0, 0) == 0);
  CHECK(row_bytes(WeightFormat::iq4_xs, int64_t{1} << 48) == (int64_t{1} << 40) * 136);
}
