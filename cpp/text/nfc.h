#pragma once
#include <string>
#include <string_view>

#include "text/flat_map.h"
#include "text/pattern.h"

namespace imp {

/// Unicode's normalization form C: marks in canonical order, letters and marks as one character where there is one.
/// Bytes that are no UTF-8 stay as they are. Immutable.
class NfcNormalizer {
 public:
  NfcNormalizer();

  /// False only where normalize() would change nothing: says so for nearly all text after one pass over it.
  bool may_change(std::string_view text) const;
  std::string normalize(std::string_view text) const;

 private:
  struct Pair {
    uint32_t first, second;  // second 0: one character stands for another
  };
  void decompose(uint32_t codepoint, std::vector<uint32_t>& out) const;
  void reorder(std::vector<uint32_t>& codepoints) const;
  void compose(std::vector<uint32_t>& codepoints) const;
  uint32_t composed(uint32_t first, uint32_t second) const;  // 0: there is no such character
  uint8_t combining_class(uint32_t codepoint) const;

  FlatMap<Pair> parts_;       // of a character
  FlatMap<uint32_t> wholes_;  // of (first << 32 | second)
  FlatMap<uint8_t> classes_;  // those that are not 0
  CharClasses may_change_;    // one class: characters that NFC removes, joins to the left or moves
};

}  // namespace imp
