#include <doctest/doctest.h>

#include <limits>

#include "core/json.h"
#include "core/text.h"

using imp::cat;
using imp::json_quote;
using imp::JsonWriter;

TEST_CASE("nesting and commas") {
  JsonWriter json;
  json.begin_object().field("a", 1).field("b", true).key("c").begin_array();
  json.value("x").null().begin_object().end_object().begin_array().end_array().value(uint64_t{18446744073709551615u});
  json.end_array().field("d", -2.5).key("e").raw("{\"z\":0}").end_object();
  CHECK(json.text() == R"({"a":1,"b":true,"c":["x",null,{},[],18446744073709551615],"d":-2.5,"e":{"z":0}})");
}

TEST_CASE("numbers JSON cannot hold become null") {
  JsonWriter json;
  json.begin_array().value(std::numeric_limits<double>::quiet_NaN()).value(std::numeric_limits<double>::infinity());
  json.value(-std::numeric_limits<double>::infinity()).value(1e300).value(0.1f).end_array();
  CHECK(json.text() == "[null,null,null,1e+300,0.10000000149011612]");
}

TEST_CASE("strings are escaped and always valid UTF-8") {
  CHECK(json_quote("a\"b\\c\n\r\t\x01\x1f\x7f/") == R"("a\"b\\c\n\r\t\u0001\u001f\u007f/")");
  CHECK(json_quote("é € 😀") == "\"é € 😀\"");
  CHECK(json_quote(std::string_view("\0x", 2)) == "\"\\u0000x\"");
  const std::string_view bad = "\xef\xbf\xbd";
  CHECK(json_quote("\xff") == cat('"', bad, '"'));
  CHECK(json_quote("\xc0\xaf") == cat('"', bad, bad, '"'));            // overlong
  CHECK(json_quote("\xe2\x82") == cat('"', bad, bad, '"'));            // cut short
  CHECK(json_quote("\xed\xa0\x80").size() == 2 + 3 * bad.size());      // surrogate
  CHECK(json_quote("\xf4\x90\x80\x80").size() == 2 + 4 * bad.size());  // above U+10FFFF
}
