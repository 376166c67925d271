#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "core/half.h"

using namespace imp;

TEST_CASE("every f16 value survives f16 -> f32 -> f16") {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = f16_to_f32(half);
    if (std::isnan(value)) {
      CHECK(std::isnan(f16_to_f32(f32_to_f16(value))));
    } else {
      CHECK(f32_to_f16(value) == half);
    }
  }
}

TEST_CASE("f32 -> f16 picks the nearer neighbour, ties to even") {
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const float low = f16_to_f32(static_cast<uint16_t>(bits));
    const float high = f16_to_f32(static_cast<uint16_t>(bits + 1));
    const float middle = low + (high - low) / 2;  // exact: f32 has the bits
    const uint32_t even = bits % 2 == 0 ? bits : bits + 1;
    CHECK(f32_to_f16(middle) == even);
    CHECK(f32_to_f16(std::nextafter(middle, low)) == bits);
    CHECK(f32_to_f16(std::nextafter(middle, high)) == bits + 1);
  }
  CHECK(f32_to_f16(65519.996f) == 0x7bff);
  CHECK(f32_to_f16(65520.0f) == 0x7c00);
  CHECK(f32_to_f16(-1e30f) == 0xfc00);
  CHECK(f32_to_f16(std::numeric_limits<float>::infinity()) == 0x7c00);
}

TEST_CASE("every bf16 value survives, and rounding is to nearest even") {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto narrow = static_cast<uint16_t>(bits);
    if (!std::isnan(bf16_to_f32(narrow))) CHECK(f32_to_bf16(bf16_to_f32(narrow)) == narrow);
  }
  CHECK(f32_to_bf16(1.00390625f) == 0x3f80);  // halfway between 1 and the next: even
  CHECK(f32_to_bf16(1.01171875f) == 0x3f82);
}
