#include "text/pattern.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>

#include "core/error.h"

namespace imp {
namespace {

using Term = Pattern::Term;
using Sequence = Pattern::Sequence;
constexpr uint32_t kUnbounded = ~0u;
constexpr uint32_t kNoMatch = ~0u;
constexpr uint32_t kMaxClasses = 32;

void append(CodepointSet& set, const CodepointSet& more) { set.insert(set.end(), more.begin(), more.end()); }

/// Adds the characters that differ from `c` in case only. Patterns use this for English contractions, so ASCII
/// letters are enough; two of them have a third form that folds to them.
void add_other_cases(CodepointSet& set, uint32_t c) {
  const uint32_t lower = c | 0x20;
  if (c > 0x7f || lower < 'a' || lower > 'z') return;
  set.push_back({lower, lower});
  set.push_back({lower - 0x20, lower - 0x20});
  if (lower == 's') set.push_back({0x17f, 0x17f});
  if (lower == 'k') set.push_back({0x212a, 0x212a});
}

class Parser {
 public:
  Parser(std::string_view source, CharClasses& classes) : source_(source), classes_(classes) {}

  std::vector<Sequence> parse() {
    std::vector<Sequence> all = alternatives();
    if (pos_ != source_.size()) wrong("unbalanced )");
    return all;
  }

 private:
  [[noreturn]] void wrong(std::string_view what) const {
    fail(ErrorCode::internal, "pre-tokenizer pattern '", source_, "', offset ", pos_, ": ", what);
  }
  bool at(std::string_view text) const { return source_.substr(pos_).starts_with(text); }
  bool take(std::string_view text) {
    if (!at(text)) return false;
    pos_ += text.size();
    return true;
  }
  uint32_t next_char() {
    if (pos_ == source_.size()) wrong("ends too early");
    const Utf8Char c = decode_utf8(source_.substr(pos_));
    pos_ += c.length;
    return c.codepoint;
  }

  std::vector<Sequence> alternatives() {
    std::vector<Sequence> all(1);
    while (pos_ < source_.size() && !at(")")) {
      if (take("|")) {
        all.emplace_back();
      } else {
        all.back().push_back(term());
      }
    }
    return all;
  }

  Term term() {
    Term result;
    if (take("(?:")) return group(false);
    if (take("(?i:")) return group(true);
    if (at("(?!") || at("(?=")) return look_ahead();
    if (take("$")) {
      result.kind = Term::Kind::at_end;
      return result;
    }
    result.bits = one_class();
    quantifier(result);
    return result;
  }

  Term group(bool ignore_case) {
    Term result;
    result.kind = Term::Kind::group;
    const bool outer = std::exchange(ignore_case_, ignore_case_ || ignore_case);
    result.options = alternatives();
    ignore_case_ = outer;
    if (!take(")")) wrong("group without )");
    if (take("?")) result.min = 0;
    return result;
  }

  Term look_ahead() {
    Term result;
    result.kind = at("(?!") ? Term::Kind::not_ahead : Term::Kind::ahead;
    pos_ += 3;
    result.bits = one_class();
    if (!take(")")) wrong("look-ahead of more than one class");
    return result;
  }

  void quantifier(Term& result) {
    if (take("?")) {
      result.min = 0;
    } else if (take("*")) {
      result.min = 0, result.max = kUnbounded;
    } else if (take("+")) {
      result.max = kUnbounded;
    } else if (take("{")) {
      result.min = result.max = number();
      if (take(",")) result.max = number();
      if (!take("}")) wrong("bad repeat count");
    }
  }

  uint32_t number() {
    uint32_t value = 0;
    const size_t start = pos_;
    for (; pos_ < source_.size() && source_[pos_] >= '0' && source_[pos_] <= '9' && value < 100000; ++pos_) {
      value = value * 10 + static_cast<uint32_t>(source_[pos_] - '0');
    }
    if (pos_ == start) wrong("number expected");
    return value;
  }

  uint32_t one_class() {
    CodepointSet set;
    bool negated = false;
    if (take("[")) {
      negated = take("^");
      while (!take("]")) class_member(set);
    } else if (take("\\S")) {
      set = white_space_set();
      negated = true;
    } else if (std::string_view("()|*+?{}").find(source_[pos_]) != std::string_view::npos) {
      wrong("unexpected operator");
    } else if (!named_set(set)) {
      single(set, escaped_char());
    }
    normalise(set);
    return classes_.add(std::move(set), negated);
  }

  void class_member(CodepointSet& set) {
    if (named_set(set)) return;
    const uint32_t first = escaped_char();
    if (!at("-") || at("-]")) {
      single(set, first);
      return;
    }
    ++pos_;
    const uint32_t last = escaped_char();
    if (last < first) wrong("range in the wrong order");
    set.push_back({first, last});
  }

  void single(CodepointSet& set, uint32_t c) const {
    set.push_back({c, c});
    if (ignore_case_) add_other_cases(set, c);
  }

  /// \s, \d and \p{Name}: appended to `set`.
  bool named_set(CodepointSet& set) {
    if (take("\\s")) {
      append(set, white_space_set());
    } else if (take("\\d")) {
      append(set, category_set("Nd"));
    } else if (take("\\p{")) {
      const size_t close = source_.find('}', pos_);
      if (close == std::string_view::npos) wrong("\\p without }");
      const CodepointSet named = category_set(source_.substr(pos_, close - pos_));
      if (named.empty()) wrong("unknown category");
      append(set, named);
      pos_ = close + 1;
    } else {
      return false;
    }
    return true;
  }

  uint32_t escaped_char() {
    if (!take("\\")) return next_char();
    const uint32_t c = next_char();
    if (c == 'r') return '\r';
    if (c == 'n') return '\n';
    if (c == 't') return '\t';
    const bool letter_or_digit = c > 0x7f || (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
    if (letter_or_digit) wrong("unknown escape");
    return c;
  }

  std::string_view source_;
  CharClasses& classes_;
  size_t pos_ = 0;
  bool ignore_case_ = false;
};

/// What follows a group once one of its options has matched.
struct Continuation {
  const Sequence* sequence;
  size_t term;
  const Continuation* next;
};

struct Matcher {
  const uint32_t* bits;
  uint32_t end;

  uint32_t run(const Sequence& sequence, size_t index, uint32_t pos, const Continuation* rest) const {
    for (; index < sequence.size(); ++index) {
      const Term& term = sequence[index];
      switch (term.kind) {
        case Term::Kind::at_end:
          if (pos != end) return kNoMatch;
          continue;
        case Term::Kind::ahead:
          if (pos == end || !(bits[pos] & term.bits)) return kNoMatch;
          continue;
        case Term::Kind::not_ahead:
          if (pos != end && (bits[pos] & term.bits)) return kNoMatch;
          continue;
        case Term::Kind::group: return run_group(sequence, index, pos, rest);
        case Term::Kind::set: break;
      }
      uint32_t last = pos;
      while (last < end && last - pos < term.max && (bits[last] & term.bits)) ++last;
      if (last - pos < term.min) return kNoMatch;
      const bool nothing_follows = index + 1 == sequence.size() && !rest;
      if (nothing_follows) return last;
      for (; last > pos + term.min; --last) {
        const uint32_t found = run(sequence, index + 1, last, rest);
        if (found != kNoMatch) return found;
      }
      pos = last;  // the shortest run is the last chance: go on without a call
    }
    return rest ? run(*rest->sequence, rest->term, pos, rest->next) : pos;
  }

  uint32_t run_group(const Sequence& sequence, size_t index, uint32_t pos, const Continuation* rest) const {
    const Continuation after{&sequence, index + 1, rest};
    for (const Sequence& option : sequence[index].options) {
      const uint32_t found = run(option, 0, pos, &after);
      if (found != kNoMatch) return found;
    }
    return sequence[index].min == 0 ? run(sequence, index + 1, pos, rest) : kNoMatch;
  }
};

/// Adds to `bits` what the first character of a match may be; true where the sequence can match nothing at all.
bool first_bits(const Sequence& sequence, uint32_t& bits) {
  for (const Term& term : sequence) {
    if (term.kind == Term::Kind::set) {
      bits |= term.bits;
      if (term.min > 0) return false;
    } else if (term.kind == Term::Kind::group) {
      bool can_be_empty = term.min == 0;
      for (const Sequence& option : term.options) can_be_empty |= first_bits(option, bits);
      if (!can_be_empty) return false;
    }
  }
  return true;
}

}  // namespace

uint32_t CharClasses::add(CodepointSet set, bool negated) {
  const Set wanted{std::move(set), negated};
  auto found = std::find(sets_.begin(), sets_.end(), wanted);
  if (found == sets_.end()) {
    if (sets_.size() == kMaxClasses) fail(ErrorCode::internal, "a pre-tokenizer with more than 32 character classes");
    found = sets_.insert(sets_.end(), wanted);
  }
  return 1u << (found - sets_.begin());
}

void CharClasses::freeze() {
  std::vector<uint32_t> all(kMaxCodepoint + 1);
  for (size_t i = 0; i < sets_.size(); ++i) {
    const uint32_t bit = 1u << i;
    if (sets_[i].negated) {
      invalid_bits_ |= bit;
      for (uint32_t& word : all) word |= bit;
    }
    for (const CodepointRange& range : sets_[i].ranges) {
      for (uint32_t c = range.first; c <= range.last; ++c) all[c] ^= bit;
    }
  }
  std::copy_n(all.begin(), ascii_.size(), ascii_.begin());
  std::unordered_map<std::string_view, uint32_t> known;
  constexpr size_t kBlock = kBlockMask + 1;
  for (size_t start = 0; start < all.size(); start += kBlock) {
    const std::string_view content(reinterpret_cast<const char*>(&all[start]), kBlock * sizeof(uint32_t));
    const auto [block, is_new] = known.try_emplace(content, static_cast<uint32_t>(words_.size()));
    if (is_new) words_.insert(words_.end(), all.begin() + start, all.begin() + start + kBlock);
    blocks_.push_back(block->second);
  }
}

Pattern::Pattern(std::string_view source, CharClasses& classes) : alternatives_(Parser(source, classes).parse()) {
  for (const Sequence& alternative : alternatives_) {
    if (imp::first_bits(alternative, first_bits_)) {
      fail(ErrorCode::internal, "pre-tokenizer pattern '", source, "' can match nothing");
    }
  }
  const Term& first = alternatives_[0][0];
  if (alternatives_.size() == 1 && first.kind == Term::Kind::set && first.max == kUnbounded) leading_run_ = first.bits;
}

uint32_t Pattern::match(std::span<const uint32_t> bits, uint32_t begin, uint32_t end) const {
  const Matcher matcher{bits.data(), end};
  for (const Sequence& alternative : alternatives_) {
    const uint32_t found = matcher.run(alternative, 0, begin, nullptr);
    if (found != kNoMatch) return found;
  }
  return begin;
}

void Pattern::split(std::span<const uint32_t> bits, CharRange range, std::vector<CharRange>& pieces) const {
  uint32_t unmatched = range.begin;
  for (uint32_t pos = range.begin; pos < range.end;) {
    const uint32_t found = bits[pos] & first_bits_ ? match(bits, pos, range.end) : pos;
    if (found == pos) {
      ++pos;
      // x+ failed with every length of this run of x, so it fails from every later start in it too; without this
      // step a long run that does not match costs its length squared
      while (leading_run_ && pos < range.end && (bits[pos - 1] & bits[pos] & leading_run_)) ++pos;
      continue;
    }
    if (unmatched < pos) pieces.push_back({unmatched, pos});
    pieces.push_back({pos, found});
    unmatched = pos = found;
  }
  if (unmatched < range.end) pieces.push_back({unmatched, range.end});
}

}  // namespace imp
