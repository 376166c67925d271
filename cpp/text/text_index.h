#pragma once
#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace imp {

/// A hash of short byte strings, eight bytes a step.
inline uint64_t hash_bytes(std::string_view bytes) {
  constexpr uint64_t kMultiplier = 0x9e3779b97f4a7c15u;
  uint64_t hash = bytes.size() * kMultiplier;
  const auto mix = [&](uint64_t chunk) { hash = std::rotl((hash ^ chunk) * kMultiplier, 29); };
  while (bytes.size() >= 8) {
    uint64_t chunk;
    std::memcpy(&chunk, bytes.data(), 8);
    mix(chunk);
    bytes.remove_prefix(8);
  }
  uint64_t tail = 0;
  for (const char c : bytes) tail = tail << 8 | static_cast<uint8_t>(c);
  mix(tail);
  return hash * kMultiplier;
}

/// From the text of a token to its id. Holds ids only and compares with `texts`, which must outlive the calls. A
/// look-up that fails, the usual case when merging, touches one cache line.
class TextIndex {
 public:
  explicit TextIndex(size_t expected = 0) : slots_(std::bit_ceil(2 * expected + 8)) {}

  /// The id that has this text already, or -1 after adding `id`. Not for more strings than were expected.
  TokenId insert(const std::vector<std::string>& texts, TokenId id) {
    const uint64_t hash = hash_bytes(texts[id]);
    Slot& slot = slots_[position(texts, texts[id], hash)];
    if (slot.id >= 0) return slot.id;
    slot = {tag(hash), id};
    return -1;
  }

  /// -1: no such text.
  TokenId find(const std::vector<std::string>& texts, std::string_view text) const {
    return slots_[position(texts, text, hash_bytes(text))].id;
  }

 private:
  struct Slot {
    uint32_t tag = 0;
    TokenId id = -1;
  };
  static uint32_t tag(uint64_t hash) { return static_cast<uint32_t>(hash); }

  size_t position(const std::vector<std::string>& texts, std::string_view text, uint64_t hash) const {
    size_t at = (hash >> 32) & (slots_.size() - 1);
    while (slots_[at].id >= 0 && (slots_[at].tag != tag(hash) || texts[slots_[at].id] != text)) {
      at = (at + 1) & (slots_.size() - 1);
    }
    return at;
  }

  std::vector<Slot> slots_;
};

}  // namespace imp
