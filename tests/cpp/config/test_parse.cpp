#include <doctest/doctest.h>

#include <fstream>
#include <random>
#include <sstream>
#include <vector>

#include "config/config.h"
#include "config/parse.h"
#include "core/error.h"

using namespace imp;

namespace {

/// "section.key=value;" of each line.
std::string parsed(std::string_view text) {
  std::string out;
  parse_config_lines(text, "t",
                     {[](std::string_view, int) {},
                      [&](const ConfigLine& line) { out += cat(line.section, ".", line.key, "=", line.value, ";"); }});
  return out;
}

std::string error_of(std::string_view text) {
  try {
    parsed(text);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::invalid_argument);
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("sections, values and comments") {
  CHECK(parsed("[a]\nx = 1\n\n# comment\n  y=2   # more\n[b]\nz = w\n[a]\nx=3") == "a.x=1;a.y=2;b.z=w;a.x=3;");
  CHECK(parsed("\xef\xbb\xbf[a]\r\nx = 1\r\ny = \"2\"\r\n") == "a.x=1;a.y=2;");
  CHECK(parsed("[ a ]  # section\nx\t=\t1\t# c") == "a.x=1;");
  CHECK(parsed("x = 1") == ".x=1;");
  CHECK(parsed("[a]\nx =\ny = # nothing") == "a.x=;a.y=;");
  CHECK(parsed("[a]\nx = a=b") == "a.x=a=b;");
  CHECK(parsed("") == "");
}

TEST_CASE("quotes keep blanks and hashes; double ones know four escapes") {
  CHECK(parsed(R"([a]
x = "a # b"   # c
y = 'it is \n "raw"'
z = "\\ \" \n \t"
e = "")") == "a.x=a # b;a.y=it is \\n \"raw\";a.z=\\ \" \n \t;a.e=;");
}

TEST_CASE("a malformed line is an error with file and line") {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"[a]\nnonsense", "t:2: expected \"key = value\""},
      {"[a", "t:1: section header without ']'"},
      {"[]", "t:1: section name"},
      {"[a b]", "t:1: section name"},
      {"[a] b", "t:1: text after the section header"},
      {"[a]#c", "t:1: text after the section header"},
      {"= 1", "t:1: key \"\""},
      {"a b = 1", "t:1: key \"a b\""},
      {"x = 1 2", "t:1: text after the value: \"2\""},
      {"x = \"1", "t:1: string without closing \""},
      {"x = '1", "t:1: string without closing '"},
      {"x = \"a\\", "t:1: string without closing \""},
      {"x = \"\\q\"", "t:1: unknown escape"},
      {"x = \"1\"2", "t:1: text after the value"},
      {"x = \"1\"#2", "t:1: text after the value"},
      {"x = 4#c", "t:1: value \"4#c\": quote it"},
  };
  for (const auto& [text, message] : cases) {
    CAPTURE(text);
    CHECK(error_of(text).starts_with(message));
  }
  CHECK(error_of(std::string(kMaxConfigBytes + 1, '#')).find("has at most 1048576") != std::string::npos);
  CHECK(error_of(std::string(kMaxConfigBytes, '#')) == "");
}

TEST_CASE("unquote takes whole strings only") {
  CHECK(unquote("\"a b\"") == "a b");
  CHECK(unquote("'a'") == "a");
  CHECK(unquote("a") == std::nullopt);
  CHECK(unquote("\"a\"b") == std::nullopt);
}

TEST_CASE("random damage to a file is parsed or refused, never worse") {
  std::ifstream file(std::string(IMP_TEST_DATA) + "/seed.conf", std::ios::binary);
  std::stringstream content;
  content << file.rdbuf();
  const std::string seed = content.str();
  REQUIRE(seed.size() > 2000);
  std::mt19937 random(7);
  const std::string_view tokens[] = {"\"",   "'",        "[",     "]",  "=",
                                     "#",    "\\",       "\n",    "\r", std::string_view("\0", 1),
                                     "\xff", "nan",      "1e999", "-1", "99999999999999999999",
                                     "auto", "[gemma4]", "   "};
  int refused = 0, loaded = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string text = seed;
    const int edits = 1 + static_cast<int>(random() % 4);
    for (int i = 0; i < edits; ++i) {
      const size_t at = random() % text.size();
      switch (random() % 4) {
        case 0: text[at] = static_cast<char>(random()); break;
        case 1: text.insert(at, tokens[random() % std::size(tokens)]); break;
        case 2: text.erase(at, random() % 20); break;
        default: text.resize(std::max<size_t>(at, 1)); break;
      }
    }
    Config config;
    try {
      config.load_text(text, "damaged");
      config.resolve();
      ++loaded;
      Config again;
      again.load_text(config.dump(), "dump");
      CHECK(again.warnings().empty());
    } catch (const Error& error) {
      REQUIRE(error.code() == ErrorCode::invalid_argument);
      ++refused;
    }
  }
  CHECK(refused > 100);
  CHECK(loaded > 100);
}

TEST_CASE("random bytes") {
  std::mt19937 random(11);
  for (int round = 0; round < 2000; ++round) {
    std::string text(random() % 200, '\0');
    for (char& c : text) c = static_cast<char>(random());
    try {
      Config().load_text(text, "noise");
    } catch (const Error& error) {
      REQUIRE(error.code() == ErrorCode::invalid_argument);
    }
  }
}
