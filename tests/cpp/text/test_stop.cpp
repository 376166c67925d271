#include <doctest/doctest.h>

#include <random>

#include "text/stop.h"

using namespace imp;

namespace {

struct Outcome {
  std::string text;
  int matched = -1;
  bool operator==(const Outcome&) const = default;
};

/// What a client sees when `text` arrives cut at random places.
Outcome run(const std::vector<std::string>& stops, std::string_view text, std::mt19937& random) {
  StopMatcher matcher(stops);
  Outcome outcome;
  while (!text.empty()) {
    const size_t length = std::min<size_t>(text.size(), 1 + random() % 4);
    const auto result = matcher.push(text.substr(0, length));
    outcome.text += result.text;
    if (result.matched >= 0) {
      outcome.matched = result.matched;
      return outcome;
    }
    text.remove_prefix(length);
  }
  outcome.text += matcher.finish();
  return outcome;
}

/// The meaning, told plainly: the stop string that is complete first; of several the one that began first.
Outcome plain(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    Outcome best;
    size_t longest = 0;
    for (size_t i = 0; i < stops.size(); ++i) {
      if (stops[i].size() > longest && std::string_view(text).substr(0, end).ends_with(stops[i])) {
        longest = stops[i].size();
        best = {text.substr(0, end - longest), static_cast<int>(i)};
      }
    }
    if (best.matched >= 0) return best;
  }
  return {text, -1};
}

}  // namespace

TEST_CASE("stop strings are found however the text is cut") {
  std::mt19937 random(5);
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops(1 + random() % 3);
    for (std::string& stop : stops) {
      for (uint32_t n = random() % 5; n > 0; --n) stop.push_back(static_cast<char>('a' + random() % 2));
    }
    std::string text;
    for (uint32_t n = random() % 20; n > 0; --n) text.push_back(static_cast<char>('a' + random() % 3));
    CAPTURE(text);
    CAPTURE(stops[0]);
    CHECK(run(stops, text, random) == plain(stops, text));
  }
}

TEST_CASE("only what may begin a stop string is held back") {
  StopMatcher matcher({"</answer>", "\n\n"});
  CHECK(matcher.push("Hello <").text == "Hello ");
  CHECK(matcher.push("/ans").text == "");
  CHECK(matcher.push("!").text == "</ans!");
  CHECK(matcher.push("a\n").text == "a");
  const auto result = matcher.push("\nrest");
  CHECK(result.text == "");
  CHECK(result.matched == 1);
}

TEST_CASE("without stop strings nothing is held back") {
  StopMatcher matcher({});
  CHECK(matcher.push("abc").text == "abc");
  CHECK(matcher.finish() == "");
  StopMatcher only_empty({""});
  CHECK(only_empty.push("abc").text == "abc");
}
