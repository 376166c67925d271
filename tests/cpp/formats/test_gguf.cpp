#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "formats/gguf.h"
#include "support/gguf_builder.h"

using namespace imp;
using test::GgufBuilder;

namespace {

const MetaValue& value_of(const GgufContents& contents, std::string_view key) {
  for (const auto& [name, value] : contents.metadata) {
    if (name == key) return value;
  }
  throw std::out_of_range("no such key");
}

template <class T>
void check_value(const GgufContents& contents, std::string_view key, const T& expected) {
  CAPTURE(key);
  const MetaValue& value = value_of(contents, key);
  REQUIRE(std::holds_alternative<T>(value));
  CHECK(std::get<T>(value) == expected);
}

}  // namespace

TEST_CASE("scalars of every type are widened and keep their values") {
  const auto image = GgufBuilder()
                         .number("u8", uint8_t{255})
                         .number("i8", int8_t{-128})
                         .number("u16", uint16_t{65535})
                         .number("i16", int16_t{-32768})
                         .number("u32", uint32_t{0xffffffff})
                         .number("i32", std::numeric_limits<int32_t>::min())
                         .number("u64", std::numeric_limits<uint64_t>::max())
                         .number("i64", std::numeric_limits<int64_t>::min())
                         .number("f32", 1e-6f)
                         .number("f64", 0.1)
                         .number("nan", std::nanf(""))
                         .number("yes", true)
                         .number("no", false)
                         .string("text", "\xc4\xa0the")
                         .string("bytes", std::string("\0\xff\xfe", 3))
                         .string("nothing", "")
                         .build();
  const GgufContents contents = parse_gguf(image.bytes, "test");
  check_value(contents, "u8", uint64_t{255});
  check_value(contents, "i8", int64_t{-128});
  check_value(contents, "u16", uint64_t{65535});
  check_value(contents, "i16", int64_t{-32768});
  check_value(contents, "u32", uint64_t{0xffffffff});
  check_value(contents, "i32", int64_t{std::numeric_limits<int32_t>::min()});
  check_value(contents, "u64", std::numeric_limits<uint64_t>::max());
  check_value(contents, "i64", std::numeric_limits<int64_t>::min());
  check_value(contents, "f32", double{1e-6f});
  check_value(contents, "f64", 0.1);
  CHECK(std::isnan(std::get<double>(value_of(contents, "nan"))));
  check_value(contents, "yes", true);
  check_value(contents, "no", false);
  check_value(contents, "text", std::string("\xc4\xa0the"));
  check_value(contents, "bytes", std::string("\0\xff\xfe", 3));
  check_value(contents, "nothing", std::string());
  CHECK(contents.metadata.size() == 16);
  CHECK(contents.metadata.front().first == "u8");
  CHECK(contents.metadata.back().first == "nothing");
  CHECK(contents.tensors.empty());
}

TEST_CASE("arrays of every type") {
  const auto image = GgufBuilder()
                         .array<uint8_t>("u8", {0, 255})
                         .array<int8_t>("i8", {-1, 127})
                         .array<uint16_t>("u16", {65535})
                         .array<int16_t>("i16", {-5})
                         .array<uint32_t>("u32", {1, 0xffffffff})
                         .array<int32_t>("i32", {-1, 2})
                         .array<uint64_t>("u64", {~uint64_t{0}})
                         .array<int64_t>("i64", {-1})
                         .array<float>("f32", {0.5f, -1e30f})
                         .array<double>("f64", {0.1})
                         .array<bool>("flags", {true, false, true})
                         .strings("tokens", {"a", "", "\xe2\x96\x81the"})
                         .array<int32_t>("empty", {})
                         .strings("no.strings", {})
                         .build();
  const GgufContents contents = parse_gguf(image.bytes, "test");
  check_value(contents, "u8", std::vector<uint64_t>{0, 255});
  check_value(contents, "i8", std::vector<int64_t>{-1, 127});
  check_value(contents, "u16", std::vector<uint64_t>{65535});
  check_value(contents, "i16", std::vector<int64_t>{-5});
  check_value(contents, "u32", std::vector<uint64_t>{1, 0xffffffff});
  check_value(contents, "i32", std::vector<int64_t>{-1, 2});
  check_value(contents, "u64", std::vector<uint64_t>{~uint64_t{0}});
  check_value(contents, "i64", std::vector<int64_t>{-1});
  check_value(contents, "f32", std::vector<double>{0.5, double{-1e30f}});
  check_value(contents, "f64", std::vector<double>{0.1});
  check_value(contents, "flags", std::vector<bool>{true, false, true});
  check_value(contents, "tokens", std::vector<std::string>{"a", "", "\xe2\x96\x81the"});
  check_value(contents, "empty", std::vector<int64_t>{});
  check_value(contents, "no.strings", std::vector<std::string>{});
}

TEST_CASE("tensors: shape turned round, data found, every format") {
  GgufBuilder builder;
  for (const FormatInfo& format : all_formats()) {
    const int64_t cols = int64_t{2} * format.block_elements;
    builder.tensor(cat("blk.0.", format.name), format.format, {3, cols});
  }
  builder.tensor("one.dim", WeightFormat::f32, {5}).tensor("four.dims", WeightFormat::f16, {2, 3, 4, 5});
  const auto image = builder.build();
  const GgufContents contents = parse_gguf(image.bytes, "test");
  REQUIRE(contents.tensors.size() == kNumWeightFormats + 2);
  CHECK(contents.data_start % 32 == 0);
  for (int i = 0; i < kNumWeightFormats; ++i) {
    const FormatInfo& format = all_formats()[i];
    const TensorInfo& tensor = contents.tensors[i];
    CAPTURE(tensor.name);
    CHECK(tensor.name == cat("blk.0.", format.name));
    CHECK(tensor.format == format.format);
    CHECK(tensor.shape == std::vector<int64_t>{3, int64_t{2} * format.block_elements});
    CHECK(tensor.num_elements() == int64_t{6} * format.block_elements);
    REQUIRE(tensor.data.size() == size_t{6} * format.block_bytes);
    CHECK(tensor.data.data() == image.bytes.data() + tensor.file_offset);
    CHECK(tensor.file_offset % 32 == 0);
    CHECK(tensor.data[1] == std::byte{48});  // the builder's pattern: the data begin where they were put
    CHECK(tensor.data[2] == std::byte{26});
  }
  CHECK(contents.tensors[kNumWeightFormats + 1].shape == std::vector<int64_t>{2, 3, 4, 5});
}

TEST_CASE("general.alignment moves the data, wherever the key stands") {
  for (const uint32_t alignment : {8u, 32u, 64u, 4096u, 65536u}) {
    const auto image = GgufBuilder()
                           .string("general.name", "x")
                           .number("general.alignment", alignment)
                           .tensor("a", WeightFormat::f32, {3})
                           .tensor("b", WeightFormat::f32, {1})
                           .align(alignment)
                           .build();
    const GgufContents contents = parse_gguf(image.bytes, "test");
    CHECK(contents.alignment == alignment);
    CHECK(contents.data_start % alignment == 0);
    CHECK(contents.tensors[1].file_offset == contents.data_start + alignment * ((12 + alignment - 1) / alignment));
  }
}

TEST_CASE("a file without keys and tensors is complete after its header, data may be in any order and have gaps") {
  CHECK(parse_gguf(GgufBuilder().build().bytes, "test").metadata.empty());

  auto image = GgufBuilder().tensor("a", WeightFormat::f32, {8}).tensor("b", WeightFormat::f32, {8}).build();
  image.set("tensor a: offset", 32);
  image.set("tensor b: offset", 0);
  const GgufContents swapped = parse_gguf(image.bytes, "test");
  CHECK(swapped.tensors[0].file_offset == swapped.tensors[1].file_offset + 32);

  image.set("tensor a: offset", 64);
  image.bytes.resize(image.bytes.size() + 64);
  CHECK(parse_gguf(image.bytes, "test").tensors[0].data.size() == 32);
}
