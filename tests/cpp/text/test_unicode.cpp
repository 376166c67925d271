#include <doctest/doctest.h>

#include <algorithm>

#include "text/unicode.h"

using namespace imp;

namespace {

bool contains(const CodepointSet& set, uint32_t codepoint) {
  return std::any_of(set.begin(), set.end(),
                     [&](const CodepointRange& range) { return range.first <= codepoint && codepoint <= range.last; });
}

/// The lengths of the steps through `text`, and 'w', 'p' or 'i' for each one's state.
std::string steps(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const Utf8Char c = decode_utf8(text);
    out += static_cast<char>('0' + c.length);
    out += c.state == Utf8State::whole ? 'w' : c.state == Utf8State::partial ? 'p' : 'i';
    text.remove_prefix(c.length);
  }
  return out;
}

}  // namespace

TEST_CASE("every code point but the surrogates goes through UTF-8 and back") {
  for (uint32_t codepoint = 0; codepoint <= kMaxCodepoint; ++codepoint) {
    if (codepoint >= 0xd800 && codepoint <= 0xdfff) continue;
    std::string text;
    append_utf8(text, codepoint);
    const Utf8Char c = decode_utf8(text);
    REQUIRE(c.state == Utf8State::whole);
    REQUIRE(c.codepoint == codepoint);
    REQUIRE(c.length == text.size());
    for (size_t length = 1; length < text.size(); ++length) {
      const Utf8Char part = decode_utf8(std::string_view(text).substr(0, length));
      REQUIRE(part.state == Utf8State::partial);
      REQUIRE(part.length == length);
    }
  }
}

TEST_CASE("broken UTF-8 is cut into maximal subparts") {
  CHECK(steps("\x80") == "1i");
  CHECK(steps("\xc0\xaf") == "1i1i");              // overlong
  CHECK(steps("\xe0\x80\x80") == "1i1i1i");        // overlong
  CHECK(steps("\xed\xa0\x80") == "1i1i1i");        // a surrogate
  CHECK(steps("\xf4\x90\x80\x80") == "1i1i1i1i");  // above U+10FFFF
  CHECK(steps("\xf5") == "1i");
  CHECK(steps("\xe2\x82"
              "A") == "2i1w");
  CHECK(steps("\xf0\x9f\x98"
              "A") == "3i1w");
  CHECK(steps("\xf0\x9f\x98") == "3p");
  CHECK(steps("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf"
              "A") == "2i1i3i2i1w");
}

TEST_CASE("categories partition the code points") {
  uint64_t total = 0;
  for (const char* group : {"L", "M", "N", "P", "S", "Z", "C"}) {
    for (const CodepointRange& range : category_set(group)) total += range.last - range.first + 1;
  }
  CHECK(total == kMaxCodepoint + 1);
  CHECK(category_set("Xx").empty());
}

TEST_CASE("well-known members of categories") {
  CHECK(contains(category_set("Lu"), 'A'));
  CHECK(contains(category_set("Ll"), 0xdf));
  CHECK(contains(category_set("Lt"), 0x1c5));
  CHECK(contains(category_set("Lm"), 0x2b0));
  CHECK(contains(category_set("Lo"), 0x5b57));
  CHECK(contains(category_set("L"), 0x1f88));
  CHECK(contains(category_set("M"), 0x301));
  CHECK(contains(category_set("Nd"), 0x663));
  CHECK(contains(category_set("N"), 0x2167));
  CHECK(contains(category_set("P"), 0x3002));
  CHECK(contains(category_set("S"), '+'));
  CHECK(!contains(category_set("P"), '+'));
  CHECK(contains(white_space_set(), 0x3000));
  CHECK(!contains(white_space_set(), 0x200b));
  CHECK(!contains(white_space_set(), 0x1c));
}
