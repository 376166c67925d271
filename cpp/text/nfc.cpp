#include "text/nfc.h"

#include <algorithm>

namespace imp {
namespace {

struct CombiningRun {
  uint32_t first, last;
  uint8_t combining_class;
};
struct Decomposition {
  uint32_t codepoint, first, second;
  bool composes;
};
#include "text/nfc_tables.inc"

// Hangul syllables are leading consonant, vowel and an optional trailing consonant, in arithmetic order.
constexpr uint32_t kSyllable = 0xac00, kLeading = 0x1100, kVowel = 0x1161, kTrailing = 0x11a7;
constexpr uint32_t kNumLeading = 19, kNumVowel = 21, kNumTrailing = 28;
constexpr uint32_t kNumSyllables = kNumLeading * kNumVowel * kNumTrailing;

// A byte that is no UTF-8 travels as a number above all code points.
constexpr uint32_t kRawByte = kMaxCodepoint + 1;

uint64_t pair_key(uint32_t first, uint32_t second) { return uint64_t{first} << 32 | second; }

}  // namespace

NfcNormalizer::NfcNormalizer() {
  CodepointSet changing = {{kVowel, kVowel + kNumVowel - 1}, {kTrailing + 1, kTrailing + kNumTrailing - 1}};
  for (const CombiningRun& run : kCombiningRuns) {
    changing.push_back({run.first, run.last});
    for (uint32_t c = run.first; c <= run.last; ++c) classes_.insert(c, run.combining_class);
  }
  for (const Decomposition& entry : kDecompositions) {
    parts_.insert(entry.codepoint, {entry.first, entry.second});
    if (entry.composes) {
      wholes_.insert(pair_key(entry.first, entry.second), entry.codepoint);
      changing.push_back({entry.second, entry.second});
    } else {
      changing.push_back({entry.codepoint, entry.codepoint});
    }
  }
  normalise(changing);
  may_change_.add(std::move(changing), false);
  may_change_.freeze();
}

bool NfcNormalizer::may_change(std::string_view text) const {
  for (size_t pos = 0; pos < text.size();) {
    if (static_cast<uint8_t>(text[pos]) < 0x80) {
      ++pos;
      continue;
    }
    const Utf8Char c = decode_utf8(text.substr(pos));
    if (may_change_.bits(c)) return true;
    pos += c.length;
  }
  return false;
}

std::string NfcNormalizer::normalize(std::string_view text) const {
  std::vector<uint32_t> codepoints;
  codepoints.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Char c = decode_utf8(text.substr(pos));
    if (c.state == Utf8State::whole) {
      decompose(c.codepoint, codepoints);
    } else {
      for (size_t i = 0; i < c.length; ++i) codepoints.push_back(kRawByte + static_cast<uint8_t>(text[pos + i]));
    }
    pos += c.length;
  }
  reorder(codepoints);
  compose(codepoints);
  std::string out;
  out.reserve(text.size());
  for (const uint32_t c : codepoints) {
    if (c >= kRawByte) {
      out.push_back(static_cast<char>(c - kRawByte));
    } else {
      append_utf8(out, c);
    }
  }
  return out;
}

void NfcNormalizer::decompose(uint32_t codepoint, std::vector<uint32_t>& out) const {
  if (codepoint - kSyllable < kNumSyllables) {  // unsigned: below kSyllable wraps to a large number
    const uint32_t index = codepoint - kSyllable;
    out.push_back(kLeading + index / (kNumVowel * kNumTrailing));
    out.push_back(kVowel + index / kNumTrailing % kNumVowel);
    if (index % kNumTrailing) out.push_back(kTrailing + index % kNumTrailing);
    return;
  }
  const Pair* parts = codepoint < 0x80 ? nullptr : parts_.find(codepoint);
  if (!parts) {
    out.push_back(codepoint);
    return;
  }
  decompose(parts->first, out);
  if (parts->second) decompose(parts->second, out);
}

/// Sorts each run of marks by class; marks of one class keep their order.
void NfcNormalizer::reorder(std::vector<uint32_t>& codepoints) const {
  const auto is_starter = [&](uint32_t c) { return combining_class(c) == 0; };
  for (auto run = codepoints.begin(); run != codepoints.end();) {
    run = std::find_if_not(run, codepoints.end(), is_starter);
    const auto end = std::find_if(run, codepoints.end(), is_starter);
    std::stable_sort(run, end, [&](uint32_t a, uint32_t b) { return combining_class(a) < combining_class(b); });
    run = end;
  }
}

/// Joins to each starter what follows it, unless a character of the same or a higher class stands between.
void NfcNormalizer::compose(std::vector<uint32_t>& codepoints) const {
  size_t kept = 0;
  size_t starter = 0;
  bool has_starter = false;
  uint8_t last_class = 0;  // of the last kept character after the starter
  for (const uint32_t c : codepoints) {
    const uint8_t own_class = combining_class(c);
    const bool adjacent = has_starter && kept == starter + 1;
    if (has_starter && (adjacent || last_class < own_class)) {
      if (const uint32_t whole = composed(codepoints[starter], c)) {
        codepoints[starter] = whole;
        continue;
      }
    }
    if (own_class == 0) {
      starter = kept;
      has_starter = true;
    }
    last_class = own_class;
    codepoints[kept++] = c;
  }
  codepoints.resize(kept);
}

uint32_t NfcNormalizer::composed(uint32_t first, uint32_t second) const {
  if (first - kLeading < kNumLeading && second - kVowel < kNumVowel) {
    return kSyllable + ((first - kLeading) * kNumVowel + (second - kVowel)) * kNumTrailing;
  }
  const bool open_syllable = first - kSyllable < kNumSyllables && (first - kSyllable) % kNumTrailing == 0;
  if (open_syllable && second - kTrailing - 1 < kNumTrailing - 1) return first + (second - kTrailing);
  const uint32_t* whole = wholes_.find(pair_key(first, second));
  return whole ? *whole : 0;
}

uint8_t NfcNormalizer::combining_class(uint32_t codepoint) const {
  if (codepoint < 0x300) return 0;
  const uint8_t* found = classes_.find(codepoint);
  return found ? *found : 0;
}

}  // namespace imp
