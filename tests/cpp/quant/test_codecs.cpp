#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "quant/codecs.h"
#include "quant/format.h"

using namespace imp;

namespace {

struct Golden {
  std::vector<std::byte> stored;
  std::vector<uint32_t> bits;  // of the expected floats
};

// The layout is described in tools/make_quant_goldens.py.
Golden read_golden(std::string_view name) {
  const std::string path = std::string(IMP_TEST_DATA) + "/quant/" + std::string(name) + ".bin";
  std::ifstream file(path, std::ios::binary);
  REQUIRE_MESSAGE(file.good(), path);
  const std::vector<char> contents{std::istreambuf_iterator<char>(file), {}};
  REQUIRE(contents.size() > sizeof(uint64_t));
  uint64_t stored_bytes = 0;
  std::memcpy(&stored_bytes, contents.data(), sizeof stored_bytes);
  REQUIRE(stored_bytes < contents.size() - sizeof stored_bytes);
  Golden golden;
  golden.stored.resize(stored_bytes);
  std::memcpy(golden.stored.data(), contents.data() + sizeof stored_bytes, stored_bytes);
  golden.bits.resize((contents.size() - sizeof stored_bytes - stored_bytes) / sizeof(float));
  std::memcpy(golden.bits.data(), contents.data() + sizeof stored_bytes + stored_bytes,
              golden.bits.size() * sizeof(float));
  return golden;
}

// Index of the first value whose bits differ from the expected ones, or the number of values.
size_t first_difference(const std::vector<uint32_t>& expected, const std::vector<float>& found) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::bit_cast<uint32_t>(found[i]) != expected[i]) return i;
  }
  return expected.size();
}

}  // namespace

TEST_CASE("every format decodes to the bits of the gguf package") {
  for (const FormatInfo& format : all_formats()) {
    CAPTURE(format.name);
    const Golden golden = read_golden(format.name);
    const auto count = static_cast<int64_t>(golden.bits.size());
    REQUIRE(count >= 1024);
    REQUIRE(row_bytes(format.format, count) == static_cast<int64_t>(golden.stored.size()));
    std::vector<float> found(golden.bits.size(), std::nanf(""));
    dequantize(format.format, golden.stored.data(), found.data(), count);
    CHECK(first_difference(golden.bits, found) == golden.bits.size());
  }
}

TEST_CASE("blocks may begin at any byte, and nothing is written behind the last weight") {
  for (const FormatInfo& format : all_formats()) {
    CAPTURE(format.name);
    const Golden golden = read_golden(format.name);
    std::vector<std::byte> shifted(golden.stored.size() + 1);
    std::memcpy(shifted.data() + 1, golden.stored.data(), golden.stored.size());
    std::vector<float> found(golden.bits.size() + 1, 12345.0f);
    dequantize(format.format, shifted.data() + 1, found.data(), static_cast<int64_t>(golden.bits.size()));
    CHECK(first_difference(golden.bits, found) == golden.bits.size());
    CHECK(found.back() == 12345.0f);
  }
}

TEST_CASE("no weights: nothing is read or written") {
  for (const FormatInfo& format : all_formats()) dequantize(format.format, nullptr, nullptr, 0);
}

TEST_CASE("E8M0 halves are powers of two down to the subnormals") {
  for (int exponent = 0; exponent < 256; ++exponent) {
    CHECK(half_e8m0_to_f32(static_cast<uint8_t>(exponent)) == std::ldexp(1.0f, exponent - 128));
  }
}

TEST_CASE("unsigned E4M3 halves follow the formula; 0x7f is 0 and the top bit does not count") {
  for (int bits = 0; bits < 256; ++bits) {
    const int exponent = bits >> 3 & 15;
    const int mantissa = bits & 7;
    const float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                      : std::ldexp(static_cast<float>(8 + mantissa), exponent - 7 - 3);
    CHECK(half_ue4m3_to_f32(static_cast<uint8_t>(bits)) == (bits == 0x7f ? 0.0f : value / 2));
  }
}
