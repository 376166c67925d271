#pragma once
#include <bit>
#include <cstdint>
#include <optional>

namespace imp {

// The one place where sizes and offsets that a file claims are added and multiplied. Nothing wraps: a result
// that does not fit into 64 bits is an empty optional, and the caller must look before using it.

constexpr std::optional<uint64_t> checked_add(uint64_t a, uint64_t b) {
  uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

constexpr std::optional<uint64_t> checked_mul(uint64_t a, uint64_t b) {
  uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

/// The smallest multiple of `alignment` (a power of two) that is >= `value`.
constexpr std::optional<uint64_t> checked_align_up(uint64_t value, uint64_t alignment) {
  if (!std::has_single_bit(alignment)) return std::nullopt;
  const std::optional<uint64_t> bumped = checked_add(value, alignment - 1);
  if (!bumped) return std::nullopt;
  return *bumped & ~(alignment - 1);
}

/// True where [offset, offset + size) lies inside [0, limit). Cannot wrap.
constexpr bool range_fits(uint64_t offset, uint64_t size, uint64_t limit) {
  return offset <= limit && size <= limit - offset;
}

}  // namespace imp
