#include <doctest/doctest.h>

#include <random>

#include "text/nfc.h"

using namespace imp;

namespace {

const NfcNormalizer& nfc() {
  static const NfcNormalizer normalizer;
  return normalizer;
}

std::string utf8(uint32_t codepoint) {
  std::string text;
  append_utf8(text, codepoint);
  return text;
}

}  // namespace

TEST_CASE("examples of the Unicode standard") {
  CHECK(nfc().normalize("e\u0301") == "\u00e9");
  CHECK(nfc().normalize("\u212b") == "\u00c5");               // a character that stands for another
  CHECK(nfc().normalize("\u1e9b\u0323") == "\u1e9b\u0323");   // no such whole
  CHECK(nfc().normalize("d\u0323\u0307") == "\u1e0d\u0307");  // the dot below joins, the other stays
  CHECK(nfc().normalize("d\u0307\u0323") == "\u1e0d\u0307");  // and marks are put in order first
  CHECK(nfc().normalize("\u0958") == "\u0915\u093c");         // excluded from composition
  CHECK(nfc().normalize("\u1100\u1161\u11a8") == "\uac01");   // Hangul
  CHECK(nfc().normalize("\uac00\u11a8") == "\uac01");
  CHECK(nfc().normalize("\u1100\u1100\u1161") == "\u1100\uac00");
  CHECK(nfc().normalize("a\u0315\u0300\u05ae\u0301b") == "\u00e0\u05ae\u0301\u0315b");
}

TEST_CASE("what is composed already stays, and is known to") {
  for (const char* text : {"", "plain ASCII", "\u00e9t\u00e9", "\u65e5\u672c\u8a9e", "\uac00\uac01", "\U0001f44d"}) {
    CAPTURE(text);
    CHECK(!nfc().may_change(text));
    CHECK(nfc().normalize(text) == text);
  }
  CHECK(nfc().may_change("e\u0301"));
}

TEST_CASE("normalizing twice changes nothing more, and no change comes without may_change") {
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    std::string text;
    for (uint32_t n = random() % 8; n > 0; --n) {
      const uint32_t kind = random() % 6;
      text += utf8(kind == 0   ? 0x300 + random() % 0x70
                   : kind == 1 ? 'a' + random() % 26
                   : kind == 2 ? 0x1e00 + random() % 0x200
                   : kind == 3 ? 0x900 + random() % 0x500
                   : kind == 4 ? 0x1100 + random() % 0x100
                               : random() % 0xd800);
    }
    const std::string once = nfc().normalize(text);
    CAPTURE(text);
    CHECK(nfc().normalize(once) == once);
    if (once != text) CHECK(nfc().may_change(text));
  }
}

TEST_CASE("bytes that are no UTF-8 stay where they are") {
  CHECK(nfc().normalize("\xff"
                        "e\u0301\xe2\x82") == "\xff\u00e9\xe2\x82");
  CHECK(nfc().normalize("e\xff\u0301") == "e\xff\u0301");
}

TEST_CASE("a mebibyte of marks is put in order in time") {
  std::string text = "a";
  while (text.size() < (1 << 20)) text += "\u0301\u0323";
  CHECK(nfc().normalize(text).size() > text.size() / 2);
}
