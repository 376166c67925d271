#include <doctest/doctest.h>

#include <set>

#include "sampling/philox.h"
#include "sampling/sampler.h"

using namespace imp;

TEST_CASE("the published known answers of Philox 4x32-10") {
  using Counter = std::array<uint32_t, 4>;
  CHECK(philox_4x32({0, 0, 0, 0}, {0, 0}) == Counter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox_4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
        Counter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox_4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Counter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("uniforms lie in [0, 1), fill it evenly and differ by seed, stream and position") {
  std::array<int, 10> bins{};
  double sum = 0;
  for (uint64_t position = 0; position < 100000; ++position) {
    const double u = counter_uniform(42, 3, position);
    REQUIRE(u >= 0);
    REQUIRE(u < 1);
    ++bins[static_cast<size_t>(u * 10)];
    sum += u;
  }
  for (int count : bins) CHECK(std::abs(count - 10000) < 400);  // 4 standard deviations of 95
  CHECK(sum / 100000 == doctest::Approx(0.5).epsilon(0.01));

  std::set<double> values;
  for (uint64_t i = 0; i < 8; ++i)
    values.insert({counter_uniform(i, 0, 0), counter_uniform(0, i, 0), counter_uniform(0, 0, i)});
  CHECK(values.size() == 3 * 8 - 2);
  // Words above 32 bits count.
  CHECK(counter_uniform(1ull << 40, 0, 0) != counter_uniform(0, 0, 0));
  CHECK(counter_uniform(0, 1ull << 40, 0) != counter_uniform(0, 0, 0));
  CHECK(counter_uniform(0, 0, 1ull << 40) != counter_uniform(0, 0, 0));
}
