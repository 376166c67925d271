#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "text/unicode.h"

namespace imp {

/// The sets of characters that a group of patterns asks about, numbered. Every character of a text is looked up
/// once and becomes a word whose bit i says "in set i"; patterns then run over these words, never over bytes.
class CharClasses {
 public:
  /// The bit of this set; equal sets share one. Only before freeze().
  uint32_t add(CodepointSet set, bool negated);
  void freeze();

  /// Bytes that are no UTF-8 count as characters outside every set (and so inside every negated one).
  uint32_t bits(const Utf8Char& c) const {
    if (c.state != Utf8State::whole) return invalid_bits_;
    return words_[blocks_[c.codepoint >> kBlockShift] + (c.codepoint & kBlockMask)];
  }
  uint32_t ascii_bits(uint8_t c) const { return ascii_[c]; }

 private:
  static constexpr uint32_t kBlockShift = 8;
  static constexpr uint32_t kBlockMask = (1u << kBlockShift) - 1;
  struct Set {
    CodepointSet ranges;
    bool negated;
    bool operator==(const Set&) const = default;
  };
  std::vector<Set> sets_;
  std::vector<uint32_t> blocks_;  // [codepoint >> 8]: where the block starts in words_; equal blocks are shared
  std::vector<uint32_t> words_;
  std::array<uint32_t, 128> ascii_{};
  uint32_t invalid_bits_ = 0;
};

/// A half-open range of characters.
struct CharRange {
  uint32_t begin, end;
};

/// A regular expression of the kind that pre-tokenizers use, with the usual leftmost, first-alternative, greedy
/// meaning. Understood: literals, [classes] with ranges and \p{..} \s \d \r \n \t, \S and \p alone, ? * + {m} {m,n}
/// on single characters and classes, (?:a|b) and (?i:a|b) with an optional ?, (?!x) and (?=x) for one class x, $.
/// Nothing repeats a group, so matching is a scan with bounded backing up, without recursion on the text.
class Pattern {
 public:
  Pattern(std::string_view source, CharClasses& classes);

  /// End of the match that starts at `begin`, or `begin` where there is none.
  uint32_t match(std::span<const uint32_t> bits, uint32_t begin, uint32_t end) const;

  /// Cuts `range` into the matches and what lies between them, in order.
  void split(std::span<const uint32_t> bits, CharRange range, std::vector<CharRange>& pieces) const;

  struct Term;
  using Sequence = std::vector<Term>;
  struct Term {
    enum class Kind : uint8_t { set, group, ahead, not_ahead, at_end };
    Kind kind = Kind::set;
    uint32_t bits = 0;
    uint32_t min = 1;
    uint32_t max = 1;
    std::vector<Sequence> options;  // of a group
  };

 private:
  std::vector<Sequence> alternatives_;
  uint32_t first_bits_ = 0;   // a match can only start at a character with one of these
  uint32_t leading_run_ = 0;  // the set of a single alternative's leading x+ or x*, else 0
};

}  // namespace imp
