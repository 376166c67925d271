#include <doctest/doctest.h>

#include "formats/quoted.h"

using namespace imp;

TEST_CASE("names from files are harmless in messages") {
  CHECK(quoted("blk.0.attn_q.weight") == "\"blk.0.attn_q.weight\"");
  CHECK(quoted("") == "\"\"");
  CHECK(quoted("a\"b\\c") == "\"a\\\"b\\\\c\"");
  CHECK(quoted(std::string("\n\x1b[31m\0\x7f\xff", 9)) == "\"\\x0a\\x1b[31m\\x00\\x7f\\xff\"");
  CHECK(quoted(std::string(80, 'x')) == "\"" + std::string(80, 'x') + "\"");
  CHECK(quoted(std::string(1000, 'x')) == "\"" + std::string(80, 'x') + "\"...");
}

TEST_CASE("UTF-8: shortest forms only, no surrogates, no control characters") {
  for (const char* good : {"", "plain", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
                           "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "\xe6\x97\xa5\xe6\x9c\xac"}) {
    CAPTURE(good);
    CHECK(is_printable_utf8(good));
  }
  for (const char* bad : {"\n", "\x7f", "\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc2", "\xc2z", "\xe0\x9f\xbf",
                          "\xe1\x80", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf0\x90\x80", "\xf4\x90\x80\x80",
                          "\xf5\x80\x80\x80", "\xff", "ok\xe2\x82"}) {
    CAPTURE(bad);
    CHECK_FALSE(is_printable_utf8(bad));
  }
  CHECK_FALSE(is_printable_utf8(std::string_view("a\0b", 3)));
}
