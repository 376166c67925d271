// What a damaged or malicious GGUF file may do: fail with an Error that names place and subject, or load as a file
// whose tensors all lie inside it. Never read outside (inputs end at a guard page), never allocate more than the file
// justifies (allocations are measured), never take long.
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <new>
#include <optional>
#include <vector>

#include "core/error.h"
#include "formats/gguf.h"
#include "support/gguf_builder.h"
#include "support/guarded_bytes.h"

namespace {
std::atomic<size_t> largest_allocation{0};
}

// This test replaces the global allocation functions to see the largest single request; the address sanitizer has its
// own and checks other things. Not inlined, or GCC takes the pair malloc/free apart and warns.
#ifndef __SANITIZE_ADDRESS__
[[gnu::noinline]] void* operator new(size_t size) {
  if (size > largest_allocation.load(std::memory_order_relaxed)) largest_allocation = size;
  if (void* memory = std::malloc(size ? size : 1)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

TEST_CASE("allocations are measured") {
  largest_allocation = 0;
  const std::vector<char> block(12345);
  CHECK(largest_allocation.load() >= block.size());
}
#endif

using namespace imp;
using test::GgufBuilder;
using test::GgufImage;

namespace {

constexpr uint64_t kExtremes[] = {0,
                                  1,
                                  (uint64_t{1} << 31) - 1,
                                  uint64_t{1} << 31,
                                  (uint64_t{1} << 32) - 1,
                                  uint64_t{1} << 53,
                                  (uint64_t{1} << 63) - 1,
                                  uint64_t{1} << 63,
                                  ~uint64_t{0} - 3,  // what rounding up to an alignment wraps
                                  ~uint64_t{0}};     // -1 in every width

/// Small, but with everything a header can hold.
GgufImage small_file() {
  return GgufBuilder()
      .string("general.architecture", "llama")
      .number("general.alignment", uint32_t{32})
      .number("llama.block_count", uint32_t{1})
      .number("llama.rope.freq_base", 10000.0f)
      .number("a.flag", true)
      .number("a.wide", int64_t{-1})
      .strings("tokenizer.ggml.tokens", {"<s>", "", "\xe2\x96\x81the"})
      .array<int32_t>("tokenizer.ggml.token_type", {3, 1, 1})
      .array<bool>("a.flags", {true, false})
      .tensor("token_embd.weight", WeightFormat::f16, {3, 8})
      .tensor("blk.0.attn_q.weight", WeightFormat::q4_0, {2, 32})
      .tensor("output_norm.weight", WeightFormat::f32, {8})
      .build();
}

void check_inside_and_apart(const GgufContents& contents, std::span<const std::byte> file) {
  for (const TensorInfo& tensor : contents.tensors) {
    REQUIRE(tensor.data.data() >= file.data());
    REQUIRE(tensor.data.data() + tensor.data.size() <= file.data() + file.size());
    REQUIRE(tensor.data.data() == file.data() + tensor.file_offset);
    REQUIRE(tensor.data.size() == static_cast<size_t>(row_bytes(tensor.format, tensor.shape.back())) *
                                      static_cast<size_t>(tensor.num_elements() / tensor.shape.back()));
    for (const TensorInfo& other : contents.tensors) {
      const bool apart = tensor.data.data() + tensor.data.size() <= other.data.data() ||
                         other.data.data() + other.data.size() <= tensor.data.data();
      if (&other != &tensor) REQUIRE(apart);
    }
    std::vector<float> weights(static_cast<size_t>(tensor.num_elements()));
    dequantize(tensor.format, tensor.data.data(), weights.data(), tensor.num_elements());
  }
}

struct Outcome {
  std::optional<ErrorCode> code;  // empty: loaded
  std::string message;

  bool says(std::string_view text) const { return message.find(text) != std::string::npos; }
};

/// Parses, and checks what holds for every input.
Outcome parse(std::span<const std::byte> bytes) {
  const test::GuardedBytes guarded(bytes);
  const auto began = std::chrono::steady_clock::now();
  largest_allocation = 0;
  Outcome outcome;
  try {
    const GgufContents contents = parse_gguf(guarded.bytes(), "evil.gguf");
    // A description of 33 bytes becomes a TensorInfo; nothing grows more.
    CHECK(largest_allocation.load() <= 1024 + 8 * bytes.size());
    check_inside_and_apart(contents, guarded.bytes());
  } catch (const Error& error) {
    CHECK(largest_allocation.load() <= 4096 + 8 * bytes.size());
    outcome = {error.code(), error.what()};
    const bool expected = error.code() == ErrorCode::invalid_model || error.code() == ErrorCode::unsupported;
    CHECK_MESSAGE(expected, outcome.message);
    CHECK_MESSAGE(outcome.message.starts_with("evil.gguf: byte "), outcome.message);
    CHECK(outcome.message.size() < 1000);
    for (const char c : outcome.message) REQUIRE((c >= 0x20 && c < 0x7f));
  }
  CHECK(std::chrono::steady_clock::now() - began < std::chrono::seconds(10));
  return outcome;
}

Outcome parse(const GgufImage& image) { return parse(image.bytes); }

/// Fails as invalid_model, and the message has all of `parts`.
void check_refused(const GgufImage& image, std::initializer_list<std::string_view> parts,
                   ErrorCode code = ErrorCode::invalid_model) {
  const Outcome outcome = parse(image);
  REQUIRE_MESSAGE(outcome.code.has_value(), "the file was accepted");
  CHECK(*outcome.code == code);
  for (const std::string_view part : parts) CHECK_MESSAGE(outcome.says(part), part, " is not in: ", outcome.message);
}

GgufImage one_tensor() { return GgufBuilder().tensor("w", WeightFormat::f32, {2, 8}).build(); }

}  // namespace

TEST_CASE("the small file itself loads") { CHECK_FALSE(parse(small_file()).code.has_value()); }

TEST_CASE("every truncation is refused") {
  const GgufImage image = small_file();
  for (size_t size = 0; size < image.bytes.size(); ++size) {
    const Outcome outcome = parse(std::span(image.bytes).first(size));
    CHECK_MESSAGE(outcome.code == ErrorCode::invalid_model, "accepted when cut to ", size, " bytes");
  }
}

TEST_CASE("every single-bit flip loads or is refused") {
  GgufImage image = small_file();
  int refused = 0;
  for (size_t i = 0; i < image.bytes.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      const auto mask = static_cast<std::byte>(1 << bit);
      image.bytes[i] ^= mask;
      refused += parse(image).code.has_value();
      image.bytes[i] ^= mask;
    }
  }
  CHECK(refused > 1000);
}

TEST_CASE("every byte set to 0x00, 0x7f, 0x80 and 0xff") {
  const GgufImage image = small_file();
  for (size_t i = 0; i < image.bytes.size(); ++i) {
    for (const int value : {0x00, 0x7f, 0x80, 0xff}) {
      GgufImage changed = image;
      changed.bytes[i] = static_cast<std::byte>(value);
      parse(changed);
    }
  }
}

TEST_CASE("extreme values in every integer of the header") {
  const GgufImage image = small_file();
  REQUIRE(image.fields.size() > 40);
  for (const auto& field : image.fields) {
    CAPTURE(field.label);
    for (const uint64_t value : kExtremes) {
      GgufImage changed = image;
      changed.set(field, value);
      parse(changed);
    }
  }
}

TEST_CASE("extreme values in every pair of sizes of a tensor") {
  const GgufImage image = GgufBuilder().tensor("w", WeightFormat::f16, {1, 2, 2, 8}).build();
  for (const auto& first : image.fields) {
    for (const auto& second : image.fields) {
      if (!first.label.starts_with("tensor") || !second.label.starts_with("tensor")) continue;
      for (const uint64_t a : kExtremes) {
        for (const uint64_t b : kExtremes) {
          GgufImage changed = image;
          changed.set(first, a);
          changed.set(second, b);
          parse(changed);
        }
      }
    }
  }
}

// ---- known holes of GGUF readers, by the name they became known under
// ------------------------------------------------

TEST_CASE("CVE-2024-23605: the number of keys overruns the table of keys") {
  for (const uint64_t count : {uint64_t{2}, kGgufMaxKeys, uint64_t{1} << 58, ~uint64_t{0}}) {
    check_refused(GgufBuilder().number("a", 1u).build().with("key count", count), {"byte"});
  }
  check_refused(one_tensor().with("key count", kGgufMaxKeys + 1), {"byte 16", "65537 metadata keys", "up to 65536"});
}

TEST_CASE("CVE-2024-21836: the number of tensors overruns the table of tensors") {
  for (const uint64_t count : {uint64_t{2}, kGgufMaxTensors, uint64_t{1} << 58, ~uint64_t{0}}) {
    check_refused(one_tensor().with("tensor count", count), {"byte"});
  }
  check_refused(one_tensor().with("tensor count", kGgufMaxTensors + 1), {"byte 8", "1048577 tensors", "up to 1048576"});
}

TEST_CASE("CVE-2024-23496: a string length of -1 wraps to an allocation of 0 bytes") {
  const GgufImage image = GgufBuilder().string("general.name", "x").tensor("w", WeightFormat::f32, {8}).build();
  check_refused(image.with("key general.name: value length", ~uint64_t{0}), {"byte 48", "\"general.name\"", "length"});
  check_refused(image.with("key general.name: key length", ~uint64_t{0}), {"byte 24", "metadata key"});
  check_refused(image.with("tensor w: name length", ~uint64_t{0}), {"tensor", "length"});
}

TEST_CASE("CVE-2024-21825: array length times element size wraps") {
  const GgufImage numbers = GgufBuilder().array<uint64_t>("a", {1, 2}).build();
  const GgufImage strings = GgufBuilder().strings("a", {"x", "y"}).build();
  for (const uint64_t count : {uint64_t{1} << 61, (uint64_t{1} << 61) + 2, uint64_t{1} << 60, ~uint64_t{0}}) {
    check_refused(numbers.with("key a: array length", count), {"\"a\"", "does not fit"});
    check_refused(strings.with("key a: array length", count), {"\"a\"", "does not fit"});
  }
}

TEST_CASE("CVE-2024-21802: more dimensions than the reader has room for") {
  for (const uint64_t count : {uint64_t{0}, uint64_t{5}, uint64_t{0x7fffffff}, uint64_t{0xffffffff}}) {
    check_refused(one_tensor().with("tensor w: dims", count), {"tensor \"w\"", "dimensions, expected 1 to 4"});
  }
}

TEST_CASE("CVE-2025-53630, CVE-2026-27940: the sum of tensor sizes wraps, directly or when padded") {
  // Sizes that fill 64 bits together; each alone must already be measured against the file.
  GgufImage image = GgufBuilder().tensor("a", WeightFormat::f32, {8}).tensor("b", WeightFormat::f32, {8}).build();
  image.set("tensor a: dim 0", uint64_t{1} << 47);
  image.set("tensor b: dim 0", uint64_t{1} << 47);
  image.set("tensor b: offset", ~uint64_t{0} - 31);
  check_refused(image, {"tensor \"a\"", "past the end of the file"});
  image.set("tensor a: dim 0", 8);
  check_refused(image, {"tensor \"b\"", "past the end of the file"});
}

TEST_CASE("rounding an offset near 2^64 up to the alignment wraps to 0") {
  check_refused(one_tensor().with("tensor w: offset", ~uint64_t{0} - 3), {"tensor \"w\"", "multiple of the alignment"});
  check_refused(one_tensor().with("tensor w: offset", ~uint64_t{0} - 31), {"tensor \"w\"", "past the end of the file"});
}

TEST_CASE("CVE-2026-33298: elements times bytes of an element wraps") {
  GgufImage image = one_tensor();
  image.set("tensor w: dim 0", uint64_t{1} << 31);
  image.set("tensor w: dim 1", uint64_t{1} << 31);
  check_refused(image, {"tensor \"w\"", "more than 2^48 elements"});
  // At the limit of elements the size fits 64 bits and is compared with the file.
  image.set("tensor w: dim 1", uint64_t{1} << 17);
  check_refused(image, {"tensor \"w\"", "1125899906842624 bytes", "past the end of the file"});
}

TEST_CASE("dimensions whose product turns negative") {
  GgufImage image = GgufBuilder().tensor("w", WeightFormat::f32, {1, 1, 2, 8}).build();
  image.set("tensor w: dim 0", std::numeric_limits<int64_t>::max());
  check_refused(image, {"tensor \"w\"", "dimension 0", "more than 2^48"});
  image.set("tensor w: dim 0", uint64_t{1} << 63);
  check_refused(image, {"tensor \"w\"", "dimension 0", "more than 2^48"});
}

TEST_CASE("dimensions whose product wraps to something small") {
  GgufImage image = GgufBuilder().tensor("w", WeightFormat::f32, {2, 2, 2, 2}).build();
  for (int i = 0; i < 4; ++i) image.set(cat("tensor w: dim ", i), uint64_t{1} << 32);
  check_refused(image, {"tensor \"w\"", "more than 2^48"});
}

TEST_CASE("a dimension of 0 does not excuse a huge one") {
  GgufImage image = one_tensor();
  image.set("tensor w: dim 0", 0);
  check_refused(image, {"tensor \"w\"", "dimension 0 is 0"});
  image = one_tensor();
  image.set("tensor w: dim 1", 0);
  check_refused(image, {"tensor \"w\"", "dimension 1 is 0"});
}

TEST_CASE("CVE-2026-7482: tensor data beyond the end of the file") {
  GgufImage image = one_tensor();
  const GgufContents contents = parse_gguf(image.bytes, "test");
  REQUIRE(contents.tensors[0].file_offset + 64 == image.bytes.size());
  check_refused(image.with("tensor w: offset", 32), {"tensor \"w\"", "past the end of the file"});
  check_refused(image.with("tensor w: dim 1", 3), {"tensor \"w\"", "96 bytes", "past the end of the file"});
  image.bytes.resize(image.bytes.size() + 32);
  CHECK_FALSE(parse(image.with("tensor w: offset", 32)).code.has_value());
  CHECK_FALSE(parse(image.with("tensor w: dim 1", 3)).code.has_value());
  // Larger than the file, at an offset chosen so that the end wraps back into it.
  image.set("tensor w: dim 1", 4);
  check_refused(image.with("tensor w: offset", ~uint64_t{0} - 127), {"past the end of the file"});
}

TEST_CASE("CVE-2025-49847: a token of more bytes than 31 bits keep its length, or is refused, never cut") {
  GgufImage image = GgufBuilder().strings("tokenizer.ggml.tokens", {"a", "b"}).build();
  for (const uint64_t length : {uint64_t{1} << 31, (uint64_t{1} << 32) + 1, kGgufMaxStringBytes + 1}) {
    check_refused(image.with("key tokenizer.ggml.tokens: length 0", length), {"\"tokenizer.ggml.tokens\"", "length"});
  }
  const std::string long_token(100'000, 'x');
  image = GgufBuilder().strings("tokenizer.ggml.tokens", {long_token}).build();
  const GgufContents contents = parse_gguf(image.bytes, "test");
  CHECK(std::get<std::vector<std::string>>(contents.metadata[0].second)[0] == long_token);
}

TEST_CASE("an alignment of the wrong type or value is an error, not an abort") {
  check_refused(GgufBuilder().number("general.alignment", int32_t{32}).build(), {"\"general.alignment\"", "unsigned"});
  check_refused(GgufBuilder().string("general.alignment", "32").build(), {"\"general.alignment\"", "unsigned"});
  check_refused(GgufBuilder().array<uint32_t>("general.alignment", {32}).build(),
                {"\"general.alignment\"", "unsigned"});
  for (const uint32_t value : {0u, 1u, 4u, 24u, 31u, 33u, 0x20000u, 0x80000000u, 0xffffffffu}) {
    check_refused(GgufBuilder().number("general.alignment", value).build(), {"\"general.alignment\"", "power of two"});
  }
  check_refused(GgufBuilder().number("general.alignment", ~uint64_t{0}).build(), {"power of two"});
}

// ---- rules of the header
// ---------------------------------------------------------------------------------------------

TEST_CASE("other files and other versions are told apart") {
  const GgufImage image = one_tensor();
  for (const std::string_view magic : {"FUGG", "lmgg", "tjgg", "vers", "PK\x03\x04", "<!DO", "\0\0\0\0"}) {
    GgufImage changed = image;
    std::memcpy(changed.bytes.data(), magic.data(), 4);
    check_refused(changed, {"byte 0", "expected the magic bytes \"GGUF\""});
  }
  check_refused(image.with("version", 0), {"byte 4", "version 0"});
  check_refused(image.with("version", 1), {"byte 4", "version 1", "version 3", "convert"}, ErrorCode::unsupported);
  check_refused(image.with("version", 2), {"byte 4", "version 2", "version 3", "convert"}, ErrorCode::unsupported);
  check_refused(image.with("version", 4), {"byte 4", "version 4", "newer"}, ErrorCode::unsupported);
  check_refused(image.with("version", 0xffffffff), {"byte 4", "version 4294967295"}, ErrorCode::unsupported);
  check_refused(image.with("version", 0x03000000), {"byte 4", "big-endian"}, ErrorCode::unsupported);
}

TEST_CASE("keys: not empty, visible ASCII, of bounded length, once") {
  check_refused(GgufBuilder().number("", 1u).build(), {"byte 24", "empty"});
  for (const std::string& key : {std::string("a b"), std::string("a\0b", 3), std::string("\xff"),
                                 std::string("caf\xc3\xa9"), std::string("a\nb"), std::string("a\x7f")}) {
    check_refused(GgufBuilder().number(key, 1u).build(), {"byte 24", "visible ASCII"});
  }
  CHECK_FALSE(parse(GgufBuilder().number(std::string(kGgufMaxKeyBytes, 'k'), 1u).build()).code.has_value());
  check_refused(GgufBuilder().number(std::string(kGgufMaxKeyBytes + 1, 'k'), 1u).build(), {"byte 24", "up to 65535"});
  check_refused(GgufBuilder().number("twice", 1u).number("other", 1u).string("twice", "x").build(),
                {"byte 66", "key \"twice\"", "occurs twice"});
}

TEST_CASE("value types: unknown ones, arrays in arrays, booleans that are neither 0 nor 1") {
  const GgufImage image = GgufBuilder().number("a", 1u).build();
  for (const uint64_t type : {13u, 14u, 255u, 0x80000000u, 0xffffffffu}) {
    check_refused(image.with("key a: type", type), {"byte 33", "key \"a\"", cat("value type ", type)});
  }
  const GgufImage array = GgufBuilder().array<uint32_t>("a", {1, 2}).build();
  check_refused(array.with("key a: element type", test::kGgufArray), {"byte 37", "arrays inside arrays"});
  check_refused(array.with("key a: element type", 13), {"byte 37", "value type 13"});
  check_refused(GgufBuilder().raw("a", test::kGgufBool, "\x02").build(), {"byte 37", "key \"a\"", "0 or 1, found 2"});
  check_refused(GgufBuilder().array<uint8_t>("a", {0, 2}).build().with("key a: element type", test::kGgufBool),
                {"byte 50", "0 or 1"});
}

TEST_CASE("tensor names: not empty, printable, of bounded length, once") {
  const auto named = [](const std::string& name) { return GgufBuilder().tensor(name, WeightFormat::f32, {8}).build(); };
  check_refused(named(""), {"byte 24", "name is empty"});
  check_refused(named("a\nb"), {"byte 24", "control characters", "a\\x0ab"});
  check_refused(named("\xc0\x80"), {"byte 24", "UTF-8"});
  check_refused(named(std::string("a\0b", 3)), {"byte 24", "control characters"});
  CHECK_FALSE(parse(named(std::string(kGgufMaxNameBytes, 'n'))).code.has_value());
  check_refused(named(std::string(kGgufMaxNameBytes + 1, 'n')), {"byte 24", "up to 256"});
  GgufImage twins = GgufBuilder().tensor("a", WeightFormat::f32, {8}).tensor("a", WeightFormat::f16, {8}).build();
  check_refused(twins, {"byte 57", "tensor \"a\"", "occurs twice"});
}

TEST_CASE("tensor types: unknown ones, and those that imp does not decode, by name") {
  const GgufImage image = one_tensor();
  for (const uint64_t id : {42u, 99u, 0x7fffffffu, 0xffffffffu}) {
    check_refused(image.with("tensor w: type", id), {"byte 53", "tensor \"w\"", cat("type ", id, " is unknown")});
  }
  check_refused(image.with("tensor w: type", 16), {"tensor \"w\"", "IQ2_XXS", "imp has F32, F16"},
                ErrorCode::unsupported);
  check_refused(image.with("tensor w: type", 26), {"tensor \"w\"", "I32"}, ErrorCode::unsupported);
}

TEST_CASE("rows must be whole blocks") {
  GgufImage image = GgufBuilder().tensor("w", WeightFormat::q4_0, {2, 64}).build();
  check_refused(image.with("tensor w: dim 0", 48), {"tensor \"w\"", "rows of 48", "Q4_0 has blocks of 32"});
  // The number of elements is a multiple of the block, the row is not.
  image.set("tensor w: dim 0", 16);
  check_refused(image, {"rows of 16"});
}

TEST_CASE("tensors may touch, but not overlap") {
  const GgufImage image =
      GgufBuilder().tensor("a", WeightFormat::f32, {16}).tensor("b", WeightFormat::f32, {8}).build();
  check_refused(image.with("tensor b: offset", 32), {"tensor \"b\"", "overlap", "\"a\""});
  check_refused(image.with("tensor b: offset", 0), {"overlap"});
  CHECK_FALSE(parse(image).code.has_value());
  check_refused(image.with("tensor b: offset", 65), {"tensor \"b\"", "multiple of the alignment"});
}

TEST_CASE("allowances of the whole header: array elements, text") {
  GgufImage image = GgufBuilder().array<uint8_t>("a", {1}).build();
  image.bytes.resize(image.bytes.size() + kGgufMaxArrayElements);
  check_refused(image.with("key a: array length", kGgufMaxArrayElements + 1), {"\"a\"", "array elements"});
  CHECK_FALSE(parse(image.with("key a: array length", kGgufMaxArrayElements)).code.has_value());
}

TEST_CASE("text of more than 256 MiB in all is refused although each string is allowed") {
  // Four strings of 64 MiB each, whose bytes are the untouched zero pages of a mapping.
  GgufImage image;
  for (const char* key : {"a", "b", "c", "d"}) {
    const GgufImage one =
        GgufBuilder().string(key, "").build().with(cat("key ", key, ": value length"), kGgufMaxStringBytes);
    if (image.bytes.empty()) image.bytes.assign(one.bytes.begin(), one.bytes.begin() + 24);
    image.bytes.insert(image.bytes.end(), one.bytes.begin() + 24, one.bytes.end());
  }
  image.fields = GgufBuilder().build().fields;
  image.set("key count", 4);
  constexpr size_t kPairHeader = 8 + 1 + 4 + 8;
  constexpr size_t kSize = 24 + 4 * (kPairHeader + kGgufMaxStringBytes);
  void* memory = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  REQUIRE(memory != MAP_FAILED);
  auto* bytes = static_cast<std::byte*>(memory);
  std::memcpy(bytes, image.bytes.data(), 24);
  for (size_t i = 0; i < 4; ++i) {
    std::memcpy(bytes + 24 + i * (kPairHeader + kGgufMaxStringBytes), image.bytes.data() + 24 + i * kPairHeader,
                kPairHeader);
  }
  CHECK_THROWS_WITH_AS(parse_gguf({bytes, kSize}, "big"), doctest::Contains("key \"d\": the length of a string"),
                       Error);
  ::munmap(memory, kSize);
}

TEST_CASE("2^20 equal tokens, 65,536 keys and 100,000 tensors with long common prefixes take little time") {
  CHECK_FALSE(parse(GgufBuilder().strings("t", std::vector<std::string>(1 << 20, "same")).build()).code.has_value());
  GgufBuilder keys;
  for (uint64_t i = 0; i < kGgufMaxKeys; ++i) keys.number(cat(std::string(200, 'k'), i), true);
  CHECK_FALSE(parse(keys.build()).code.has_value());

  GgufBuilder tensors;
  for (int i = 0; i < 100'000; ++i) tensors.tensor(cat(std::string(200, 'n'), i), WeightFormat::f32, {1});
  const GgufImage image = tensors.build();
  const auto began = std::chrono::steady_clock::now();
  CHECK(parse_gguf(image.bytes, "test").tensors.size() == 100'000);
  CHECK(std::chrono::steady_clock::now() - began < std::chrono::seconds(5));
}
