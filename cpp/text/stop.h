#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace imp {

/// Finds stop strings in text that arrives in pieces, however it is cut. Text that could be the start of a
/// stop string is held back until it is clear.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stop_strings);

  struct Result {
    std::string text;  // safe to show
    int matched = -1;  // index of the stop string found, -1: none; `text` ends before it
  };
  Result push(std::string_view text);
  std::string finish();  // what was held back, at the end of generation

 private:
  std::vector<std::string> stops_;
  size_t longest_ = 0;
  std::string held_;
};

}  // namespace imp
