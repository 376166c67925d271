#include "text/unicode.h"

#include <algorithm>
#include <array>
#include <iterator>

namespace imp {
namespace {

struct CategoryRun {
  uint32_t first;
  Category category;
};

constexpr CategoryRun kCategoryRuns[] = {
#include "text/unicode_tables.inc"
};

constexpr std::array<std::string_view, 30> kCategoryNames = {
    "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe",
    "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"};

Utf8Char broken(size_t length, bool at_end) {
  return {kReplacementCharacter, static_cast<uint8_t>(length), at_end ? Utf8State::partial : Utf8State::invalid};
}

}  // namespace

CodepointSet category_set(std::string_view name) {
  CodepointSet set;
  for (size_t i = 0; i < std::size(kCategoryRuns); ++i) {
    const auto [first, category] = kCategoryRuns[i];
    if (!kCategoryNames[static_cast<size_t>(category)].starts_with(name)) continue;
    const uint32_t last = i + 1 < std::size(kCategoryRuns) ? kCategoryRuns[i + 1].first - 1 : kMaxCodepoint;
    set.push_back({first, last});
  }
  normalise(set);
  return set;
}

CodepointSet white_space_set() {
  return {{0x09, 0x0d},     {0x20, 0x20},     {0x85, 0x85},     {0xa0, 0xa0},     {0x1680, 0x1680},
          {0x2000, 0x200a}, {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000}};
}

void normalise(CodepointSet& set) {
  std::sort(set.begin(), set.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  CodepointSet joined;
  for (const CodepointRange& range : set) {
    if (!joined.empty() && range.first <= joined.back().last + 1) {
      joined.back().last = std::max(joined.back().last, range.last);
    } else {
      joined.push_back(range);
    }
  }
  set = std::move(joined);
}

Utf8Char decode_utf8(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1, Utf8State::whole};
  if (lead < 0xc2 || lead > 0xf4) return broken(1, false);
  const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  // the second byte's range keeps out overlong forms, surrogates and what is above U+10FFFF
  const uint8_t second_min = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const uint8_t second_max = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  uint32_t codepoint = lead & (0xff >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if (i == text.size()) return broken(i, true);
    const uint8_t low = i == 1 ? second_min : 0x80;
    const uint8_t high = i == 1 ? second_max : 0xbf;
    if (byte(i) < low || byte(i) > high) return broken(i, false);
    codepoint = codepoint << 6 | (byte(i) & 0x3f);
  }
  return {codepoint, static_cast<uint8_t>(length), Utf8State::whole};
}

void append_utf8(std::string& out, uint32_t codepoint) {
  const auto put = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (codepoint < 0x80) {
    put(codepoint);
  } else if (codepoint < 0x800) {
    put(0xc0 | codepoint >> 6);
    put(0x80 | (codepoint & 0x3f));
  } else if (codepoint < 0x10000) {
    put(0xe0 | codepoint >> 12);
    put(0x80 | (codepoint >> 6 & 0x3f));
    put(0x80 | (codepoint & 0x3f));
  } else {
    put(0xf0 | codepoint >> 18);
    put(0x80 | (codepoint >> 12 & 0x3f));
    put(0x80 | (codepoint >> 6 & 0x3f));
    put(0x80 | (codepoint & 0x3f));
  }
}

}  // namespace imp
