#include <doctest/doctest.h>

#include "core/checked.h"

using namespace imp;

constexpr uint64_t kMax = ~uint64_t{0};

TEST_CASE("sums and products that do not fit are empty") {
  CHECK(checked_add(kMax - 1, 1) == kMax);
  CHECK(checked_add(kMax, 0) == kMax);
  CHECK_FALSE(checked_add(kMax, 1).has_value());
  CHECK_FALSE(checked_add(uint64_t{1} << 63, uint64_t{1} << 63).has_value());
  CHECK(checked_mul(uint64_t{1} << 32, (uint64_t{1} << 32) - 1).has_value());
  CHECK(checked_mul(kMax, 1) == kMax);
  CHECK(checked_mul(kMax, 0) == 0u);
  CHECK_FALSE(checked_mul(uint64_t{1} << 32, uint64_t{1} << 32).has_value());
  CHECK_FALSE(checked_mul(kMax, 2).has_value());
}

TEST_CASE("alignment rounds up, never wraps to 0, and only takes powers of two") {
  CHECK(checked_align_up(0, 32) == 0u);
  CHECK(checked_align_up(1, 32) == 32u);
  CHECK(checked_align_up(32, 32) == 32u);
  CHECK(checked_align_up(kMax - 31, 32) == kMax - 31);
  CHECK_FALSE(checked_align_up(kMax - 30, 32).has_value());
  CHECK_FALSE(checked_align_up(kMax - 3, 32).has_value());
  CHECK_FALSE(checked_align_up(kMax, 2).has_value());
  CHECK(checked_align_up(kMax, 1) == kMax);
  CHECK_FALSE(checked_align_up(8, 0).has_value());
  CHECK_FALSE(checked_align_up(8, 24).has_value());
}

TEST_CASE("ranges") {
  CHECK(range_fits(0, 10, 10));
  CHECK(range_fits(10, 0, 10));
  CHECK_FALSE(range_fits(1, 10, 10));
  CHECK_FALSE(range_fits(11, 0, 10));
  CHECK_FALSE(range_fits(kMax, 2, 10));
  CHECK_FALSE(range_fits(2, kMax, 10));
  CHECK_FALSE(range_fits(kMax, kMax, kMax - 1));
}
