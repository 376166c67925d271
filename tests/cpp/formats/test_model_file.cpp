#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include "core/error.h"
#include "formats/model_file.h"
#include "support/gguf_builder.h"
#include "support/temp_dir.h"

using namespace imp;
using test::GgufBuilder;
using test::GgufImage;
using test::TempDir;

namespace {

void write_file(const std::string& path, const GgufImage& image) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(image.bytes.data()), static_cast<std::streamsize>(image.bytes.size()));
  REQUIRE(file.good());
}

/// Opening fails with `code`, and the message has all of `parts`.
void check_refused(const std::string& path, ErrorCode code, std::initializer_list<std::string_view> parts) {
  try {
    open_model_file(path);
    FAIL("accepted: ", path);
  } catch (const Error& error) {
    const std::string message = error.what();
    CHECK_MESSAGE(error.code() == code, message);
    for (const std::string_view part : parts)
      CHECK_MESSAGE(message.find(part) != std::string::npos, part, " | ", message);
  }
}

template <class Call>
void check_bad_key(std::string_view part, Call call) {
  CHECK_THROWS_WITH_AS(call(), doctest::Contains(std::string(part).c_str()), Error);
}

/// Part `number` (from 0) of a model of `count` files, with `tensors` named w<number>.<i>.
GgufBuilder part(uint16_t number, uint16_t count, int tensors, int32_t tensors_of_all) {
  GgufBuilder builder;
  if (number == 0) builder.string("general.architecture", "llama");
  builder.number("split.no", number).number("split.count", count).number("split.tensors.count", tensors_of_all);
  for (int i = 0; i < tensors; ++i) builder.tensor(cat("w", number, ".", i), WeightFormat::f32, {2, 4});
  return builder;
}

void write_three_parts(const TempDir& dir) {
  write_file(dir / "m-00001-of-00003.gguf", part(0, 3, 0, 3).build());
  write_file(dir / "m-00002-of-00003.gguf", part(1, 3, 2, 3).build());
  write_file(dir / "m-00003-of-00003.gguf", part(2, 3, 1, 3).build());
}

}  // namespace

TEST_CASE("a single file: metadata, tensors, sizes") {
  const TempDir dir;
  const auto image = GgufBuilder()
                         .string("general.architecture", "llama")
                         .number("llama.block_count", uint32_t{30})
                         .tensor("token_embd.weight", WeightFormat::q8_0, {4, 64})
                         .tensor("a.weight", WeightFormat::f32, {64})
                         .build();
  write_file(dir / "tiny.gguf", image);
  const auto model = open_model_file(dir / "tiny.gguf");
  CHECK(model->path() == dir / "tiny.gguf");
  CHECK(model->format_name() == "GGUF v3");
  CHECK(model->file_bytes() == image.bytes.size());
  CHECK(model->keys() == std::vector<std::string>{"general.architecture", "llama.block_count"});
  REQUIRE(model->tensors().size() == 2);
  CHECK(model->tensors()[0].name == "token_embd.weight");
  const TensorInfo* found = model->find_tensor("a.weight");
  REQUIRE(found != nullptr);
  CHECK(found == &model->tensors()[1]);
  CHECK(found->shard == 0);
  CHECK(found->data.size() == 256);
  CHECK(std::memcmp(found->data.data(), image.bytes.data() + found->file_offset, 256) == 0);
  CHECK(model->find_tensor("a.weigh") == nullptr);
  CHECK(model->find_tensor("") == nullptr);
  CHECK(model->find("llama.block_coun") == nullptr);
}

TEST_CASE("typed access: value, fallback, missing key, wrong type") {
  const TempDir dir;
  write_file(dir / "m.gguf", GgufBuilder()
                                 .number("u", uint32_t{7})
                                 .number("i", int8_t{-7})
                                 .number("huge", ~uint64_t{0})
                                 .number("largest", uint64_t{1} << 62)
                                 .number("f", 1e-5f)
                                 .number("b", true)
                                 .string("s", "text")
                                 .strings("list", {"x", "y"})
                                 .array<int32_t>("numbers", {1, 2})
                                 .build());
  const auto model = open_model_file(dir / "m.gguf");
  CHECK(model->get_int("u") == 7);
  CHECK(model->get_int("i", 3) == -7);
  CHECK(model->get_int("largest") == int64_t{1} << 62);
  CHECK(model->get_int("none", 3) == 3);
  CHECK(model->get_float("f") == double{1e-5f});
  CHECK(model->get_float("none", 0.5) == 0.5);
  CHECK(model->get_bool("b", false));
  CHECK(model->get_bool("none", true));
  CHECK(model->get_string("s") == "text");
  CHECK(model->get_string("none", "other") == "other");
  REQUIRE(model->find_strings("list") != nullptr);
  CHECK(model->find_strings("list")->back() == "y");
  CHECK(model->find_strings("none") == nullptr);
  CHECK(model->has("b"));
  CHECK_FALSE(model->has("none"));

  check_bad_key("m.gguf: key \"none\" is missing", [&] { model->get_int("none"); });
  check_bad_key("key \"none\" is missing", [&] { model->get_float("none"); });
  check_bad_key("key \"none\" is missing", [&] { model->get_string("none"); });
  check_bad_key("key \"s\": expected an integer, found a string", [&] { model->get_int("s"); });
  check_bad_key("key \"f\": expected an integer, found a float", [&] { model->get_int("f", 1); });
  check_bad_key("key \"huge\": 18446744073709551615 is too large", [&] { model->get_int("huge"); });
  check_bad_key("key \"u\": expected a float, found an integer", [&] { model->get_float("u", 1.0); });
  check_bad_key("key \"u\": expected a boolean", [&] { model->get_bool("u", false); });
  check_bad_key("key \"b\": expected a string, found a boolean", [&] { model->get_string("b", ""); });
  check_bad_key("key \"numbers\": expected an array of strings, found an array of integers",
                [&] { model->find_strings("numbers"); });
}

TEST_CASE("a split model is one model") {
  const TempDir dir;
  write_three_parts(dir);
  const auto model = open_model_file(dir / "m-00001-of-00003.gguf");
  CHECK(model->path() == dir / "m-00001-of-00003.gguf");
  REQUIRE(model->tensors().size() == 3);
  CHECK(model->find_tensor("w1.0")->shard == 1);
  CHECK(model->find_tensor("w1.1")->shard == 1);
  CHECK(model->find_tensor("w2.0")->shard == 2);
  CHECK(model->find_tensor("w2.0")->data[0] == std::byte{11});
  CHECK(model->get_string("general.architecture") == "llama");
  uint64_t bytes = 0;
  for (const char* name : {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"}) {
    bytes += std::filesystem::file_size(dir / name);
  }
  CHECK(model->file_bytes() == bytes);
}

TEST_CASE("a single file may be called part 1 of 1") {
  const TempDir dir;
  write_file(dir / "m-00001-of-00001.gguf", GgufBuilder().build());
  CHECK(open_model_file(dir / "m-00001-of-00001.gguf")->tensors().empty());
  write_file(dir / "m-00001-of-00001.gguf", part(0, 1, 1, 1).build());
  CHECK(open_model_file(dir / "m-00001-of-00001.gguf")->tensors().size() == 1);
}

TEST_CASE("split models: what may be wrong with one file") {
  const TempDir dir;
  write_three_parts(dir);
  check_refused(dir / "m-00002-of-00003.gguf", ErrorCode::invalid_model, {"part 2 of 3", "m-00001-of-00003.gguf"});

  std::filesystem::copy(dir / "m-00001-of-00003.gguf", dir / "renamed.gguf");
  check_refused(dir / "renamed.gguf", ErrorCode::invalid_model, {"part 0 (from 0) of 3", "-00001-of-00003.gguf"});

  write_file(dir / "piece-00001-of-00002.gguf", GgufBuilder().build());
  check_refused(dir / "piece-00001-of-00002.gguf", ErrorCode::invalid_model, {"part 1 of 2", "no \"split.count\""});

  write_file(dir / "n-00001-of-00003.gguf", part(0, 4, 0, 3).build());
  check_refused(dir / "n-00001-of-00003.gguf", ErrorCode::invalid_model, {"of 4", "-00001-of-00004.gguf"});

  write_file(dir / "k-00001-of-00002.gguf", GgufBuilder().number("split.count", uint16_t{2}).build());
  check_refused(dir / "k-00001-of-00002.gguf", ErrorCode::invalid_model, {"\"split.no\" is missing"});

  for (const int64_t count : {int64_t{-1}, int64_t{65536}, std::numeric_limits<int64_t>::max()}) {
    write_file(dir / "c.gguf", GgufBuilder().number("split.count", count).build());
    check_refused(dir / "c.gguf", ErrorCode::invalid_model, {"\"split.count\"", "0 to 65535"});
  }
  write_file(dir / "c.gguf", GgufBuilder().string("split.count", "3").build());
  check_refused(dir / "c.gguf", ErrorCode::invalid_model, {"\"split.count\"", "expected an integer"});
}

TEST_CASE("split models: what may be wrong between the files") {
  const TempDir dir;
  const std::string first = dir / "m-00001-of-00003.gguf";
  const std::string third = dir / "m-00003-of-00003.gguf";

  write_three_parts(dir);
  std::filesystem::remove(third);
  check_refused(first, ErrorCode::file_not_found, {"m-00003-of-00003.gguf"});

  write_file(third, part(1, 3, 1, 3).build());
  check_refused(first, ErrorCode::invalid_model, {"m-00003-of-00003.gguf", "\"split.no\": expected 2, found 1"});
  write_file(third, part(2, 4, 1, 3).build());
  check_refused(first, ErrorCode::invalid_model, {"m-00003-of-00003.gguf", "\"split.count\": expected 3, found 4"});
  write_file(third, GgufBuilder().build());
  check_refused(first, ErrorCode::invalid_model, {"m-00003-of-00003.gguf", "\"split.no\" is missing"});
  write_file(third, part(2, 3, 2, 3).build());
  check_refused(first, ErrorCode::invalid_model, {"\"split.tensors.count\": 3 tensors expected", "hold 4"});

  GgufBuilder twin = part(2, 3, 0, 3);
  write_file(third, twin.tensor("w1.0", WeightFormat::f32, {8}).build());
  check_refused(first, ErrorCode::invalid_model, {"m-00003-of-00003.gguf", "tensor \"w1.0\" is also in", "m-00002"});

  GgufImage cut = part(2, 3, 1, 3).build();
  cut.bytes.pop_back();
  write_file(third, cut);
  check_refused(first, ErrorCode::invalid_model, {"m-00003-of-00003.gguf: byte ", "tensor \"w2.0\"", "past the end"});
}

TEST_CASE("paths that are not model files") {
  const TempDir dir;
  check_refused(dir / "none.gguf", ErrorCode::file_not_found, {"none.gguf"});
  check_refused(dir.path(), ErrorCode::invalid_model, {"directory"});
  check_refused("/dev/null", ErrorCode::invalid_model, {"device"});
  std::ofstream(dir / "empty.gguf").close();
  check_refused(dir / "empty.gguf", ErrorCode::invalid_model, {"empty"});
  REQUIRE(mkfifo((dir / "fifo.gguf").c_str(), 0600) == 0);
  check_refused(dir / "fifo.gguf", ErrorCode::invalid_model, {"FIFO"});
  std::ofstream(dir / "text.gguf") << "This is not a model.";
  check_refused(dir / "text.gguf", ErrorCode::invalid_model, {"text.gguf: byte 0", "\"This\""});
}

TEST_CASE("a sparse file of 1 TB opens at once, and its size excuses nothing") {
  const TempDir dir;
  const std::string path = dir / "sparse.gguf";
  write_file(path, GgufBuilder().tensor("w", WeightFormat::f32, {8}).build());
  if (truncate(path.c_str(), int64_t{1} << 40) != 0) {
    MESSAGE("this file system has no sparse files of 1 TB: not tested");
    return;
  }
  CHECK(open_model_file(path)->file_bytes() == uint64_t{1} << 40);
  GgufImage image = GgufBuilder().tensor("w", WeightFormat::f32, {8}).build();
  image.set("tensor w: dim 0", uint64_t{1} << 40);
  write_file(path, image);
  REQUIRE(truncate(path.c_str(), int64_t{1} << 40) == 0);
  check_refused(path, ErrorCode::invalid_model, {"tensor \"w\"", "past the end of the file"});
}
