#include <doctest/doctest.h>

#include <string>

#include "core/error.h"
#include "text/pattern.h"
#include "text/pre_tokenizer.h"

using namespace imp;

namespace {

/// The pieces of `text`, cut by one pattern, joined with '|'.
std::string cut(std::string_view pattern, std::string_view text) {
  const PreTokenizer pre_tokenizer({.names = {"test"}, .patterns = {pattern}});
  std::string joined;
  for (const std::string_view word : pre_tokenizer.split(text)) joined.append(word).append("|");
  return joined;
}

std::string cut_by(std::string_view name, std::string_view text) {
  const PreTokenizer pre_tokenizer(*find_pre_tokenizer(name));
  std::string joined;
  for (const std::string_view word : pre_tokenizer.split(text)) joined.append(word).append("|");
  return joined;
}

}  // namespace

TEST_CASE("matches and what lies between them are the pieces") {
  CHECK(cut("b", "abcb") == "a|b|c|b|");
  CHECK(cut("b", "") == "");
  CHECK(cut("b", "aa") == "aa|");
}

TEST_CASE("repeats are greedy and give back what the rest needs") {
  CHECK(cut("a*b", "aab") == "aab|");
  CHECK(cut("a+ab", "aaab") == "aaab|");
  CHECK(cut("a{2}", "aaaaa") == "aa|aa|a|");
  CHECK(cut("a{1,3}", "aaaaa") == "aaa|aa|");
  CHECK(cut("x?y", "xyy") == "xy|y|");
}

TEST_CASE("the first alternative that fits wins, not the longest") {
  CHECK(cut("a|ab", "ab") == "a|b|");
  CHECK(cut("(?:a|ab)c", "abc") == "abc|");
  CHECK(cut("x(?:y|z)?w", "xwxyw") == "xw|xyw|");
}

TEST_CASE("classes know categories, ranges, escapes and negation") {
  CHECK(cut("\\p{L}+", "aé日1_b") == "aé日|1_|b|");
  CHECK(cut("[\\p{Lu}\\p{Nd}]+", "aBC1d") == "a|BC1|d|");
  CHECK(cut("[^\\s\\p{L}]+", "a+- b") == "a|+-| b|");
  CHECK(cut("[a\\-\\]]+", "x-]a") == "x|-]a|");
  CHECK(cut("\\d+", "12\u0663\u00b2") == "12\u0663|\u00b2|");
}

TEST_CASE("looking ahead takes nothing") {
  CHECK(cut("\\s+(?!\\S)", "a   b  ") == "a|  | b|  |");
  CHECK(cut("a(?=b)", "abac") == "a|bac|");
  CHECK(cut("\\s+$", "a  b  ") == "a  b|  |");
}

TEST_CASE("ignoring case covers the letters that fold to ASCII") {
  CHECK(cut("(?i:'s|'k)", "a'Sb'\u017fc'\u212ad") == "a|'S|b|'\u017f|c|'\u212a|d|");
  CHECK(cut("(?:'s)", "a'S") == "a'S|");
}

TEST_CASE("bytes that are no UTF-8 are characters of no category") {
  CHECK(cut("[^\\s\\p{L}]+", "a\xff\xfe b") == "a|\xff\xfe| b|");
  CHECK(cut("\\p{L}+", "a\xc3") == "a|\xc3|");
}

TEST_CASE("a pattern that is not understood is a bug, with the place") {
  CharClasses classes;
  for (const char* source : {"a{", "a{x}", "(a)", "[", "[a", "a)", "\\q", "\\p{Xx}", "\\p{L", "(?:a", "(?!ab)", "*a",
                             "[z-a]", "a*", "a|", "", "\\"}) {
    CAPTURE(source);
    CHECK_THROWS_AS(Pattern(source, classes), Error);
  }
}

TEST_CASE("every pre-tokenizer of the table can be built and found") {
  for (const PreTokenizerSpec& spec : pre_tokenizers()) {
    const PreTokenizer pre_tokenizer(spec);
    for (const std::string_view name : spec.names) CHECK(find_pre_tokenizer(name) == &spec);
  }
  CHECK(find_pre_tokenizer("") == nullptr);
  CHECK(find_pre_tokenizer("gpt") == nullptr);
}

TEST_CASE("families differ where they are known to") {
  CHECK(cut_by("gpt-2", "it's 1234  x") == "it|'s| 1234| | x|");
  CHECK(cut_by("smollm", "a 12") == "a| |1|2|");
  CHECK(cut_by("llama-bpe", "IT'S 1234\n\n x") == "IT|'S| |123|4|\n\n| x|");
  CHECK(cut_by("qwen2", "a 12") == "a| |1|2|");
  CHECK(cut_by("qwen2", "हिन्दी") == "ह|िन|्द|ी|");
  CHECK(cut_by("qwen35", "हिन्दी") == "हिन्दी|");
  CHECK(cut_by("gpt-4o", "camelCase HTTPServer don't") == "camel|Case| HTTPServer| don't|");
  CHECK(cut_by("tekken", "don't 12") == "don|'t| |1|2|");
  CHECK(cut_by("deepseek-v3", "学校です。12345") == "学校です|。|123|45|");
  CHECK(cut_by("deepseek-coder", "a\n\nb 1") == "a|\n|\n|b| |1|");
}
