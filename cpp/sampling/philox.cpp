#include "sampling/philox.h"

#include "sampling/sampler.h"

namespace imp {

std::array<uint32_t, 4> philox_4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product_0 = uint64_t{0xd2511f53} * counter[0];
    const uint64_t product_1 = uint64_t{0xcd9e8d57} * counter[2];
    counter = {static_cast<uint32_t>(product_1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product_1),
               static_cast<uint32_t>(product_0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product_0)};
    key = {key[0] + 0x9e3779b9, key[1] + 0xbb67ae85};
  }
  return counter;
}

double counter_uniform(uint64_t seed, uint64_t stream, uint64_t position) {
  const auto low = [](uint64_t value) { return static_cast<uint32_t>(value); };
  const auto high = [](uint64_t value) { return static_cast<uint32_t>(value >> 32); };
  const auto bits = philox_4x32({low(position), high(position), low(stream), high(stream)}, {low(seed), high(seed)});
  const uint64_t mantissa = (uint64_t{bits[1]} << 32 | bits[0]) >> 11;  // 53 bits, what a double holds
  return static_cast<double>(mantissa) * 0x1p-53;
}

}  // namespace imp
