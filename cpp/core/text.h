#pragma once
#include <charconv>
#include <concepts>
#include <string>
#include <string_view>
#include <type_traits>

namespace imp {

inline void append_text(std::string& out, std::string_view part) { out += part; }
inline void append_text(std::string& out, char part) { out += part; }
/// A template, so that a string literal does not decay to bool on its way to string_view.
template <std::same_as<bool> Bool>
void append_text(std::string& out, Bool part) {
  out += part ? "true" : "false";
}

template <class Number>
  requires((std::integral<Number> || std::floating_point<Number>) && !std::same_as<Number, bool>)
void append_text(std::string& out, Number part) {
  char digits[64];
  const auto end = std::to_chars(digits, digits + sizeof digits, part).ptr;
  out.append(digits, end);
}

/// Joins strings and numbers into one string: `cat("layer ", 3, " has no ", name)`. Floats print shortest round-trip.
template <class... Parts>
std::string cat(const Parts&... parts) {
  std::string out;
  (append_text(out, parts), ...);
  return out;
}

}  // namespace imp
