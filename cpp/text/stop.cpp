#include "text/stop.h"

#include <algorithm>
#include <utility>

namespace imp {

StopMatcher::StopMatcher(std::vector<std::string> stop_strings) : stops_(std::move(stop_strings)) {
  for (const std::string& stop : stops_) longest_ = std::max(longest_, stop.size());
}

StopMatcher::Result StopMatcher::push(std::string_view text) {
  held_ += text;
  Result result;
  // The one that is complete first counts, of several the longest: this does not depend on how the text was cut.
  size_t first = 0;
  size_t first_end = std::string::npos;
  for (size_t i = 0; i < stops_.size(); ++i) {
    if (stops_[i].empty()) continue;  // would match everywhere
    const size_t at = held_.find(stops_[i]);
    if (at == std::string::npos) continue;
    const size_t end = at + stops_[i].size();
    if (end < first_end || (end == first_end && at < first)) {
      first = at;
      first_end = end;
      result.matched = static_cast<int>(i);
    }
  }
  if (result.matched >= 0) {
    result.text = held_.substr(0, first);
    held_.clear();
    return result;
  }
  // hold back from the first place where some stop string may have begun
  size_t keep = longest_ == 0 ? held_.size() : held_.size() - std::min(held_.size(), longest_ - 1);
  const auto may_begin_at = [&](size_t at) {
    const std::string_view tail = std::string_view(held_).substr(at);
    return std::any_of(stops_.begin(), stops_.end(), [&](const std::string& stop) { return stop.starts_with(tail); });
  };
  while (keep < held_.size() && !may_begin_at(keep)) ++keep;
  result.text = held_.substr(0, keep);
  held_.erase(0, keep);
  return result;
}

std::string StopMatcher::finish() { return std::exchange(held_, {}); }

}  // namespace imp
