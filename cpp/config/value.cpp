#include "config/value.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>

#include "core/error.h"

namespace imp {
namespace {

/// Bytes of the UTF-8 sequence that `text` starts with; 0 where it starts with none.
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  const size_t length = first < 0x80   ? 1
                        : first < 0xc2 ? 0
                        : first < 0xe0 ? 2
                        : first < 0xf0 ? 3
                        : first < 0xf5 ? 4
                                       : 0;
  if (length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  const bool overlong = (first == 0xe0 && byte(1) < 0xa0) || (first == 0xf0 && byte(1) < 0x90);
  const bool surrogate = first == 0xed && byte(1) >= 0xa0;
  const bool too_large = first == 0xf4 && byte(1) >= 0x90;
  return overlong || surrogate || too_large ? 0 : length;
}

bool equal_ignoring_case(std::string_view text, std::string_view lower) {
  return std::equal(text.begin(), text.end(), lower.begin(), lower.end(),
                    [](char a, char b) { return (a >= 'A' && a <= 'Z' ? a + ('a' - 'A') : a) == b; });
}

std::optional<bool> parse_bool(std::string_view text) {
  for (std::string_view word : {"true", "1", "yes", "on"}) {
    if (equal_ignoring_case(text, word)) return true;
  }
  for (std::string_view word : {"false", "0", "no", "off"}) {
    if (equal_ignoring_case(text, word)) return false;
  }
  return std::nullopt;
}

/// The whole text: an optional minus, decimal digits, single `_` between digits.
std::optional<int64_t> parse_integer(std::string_view text) {
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool between_digits =
        i > 0 && i + 1 < text.size() && text[i - 1] != '_' && text[i - 1] != '-' && text[i + 1] != '_';
    if (text[i] == '_' && between_digits) continue;
    digits += text[i];
  }
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  return value;
}

std::optional<double> parse_number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value + 0.0;  // -0.0 becomes 0.0
}

bool has_choice(std::string_view choices, std::string_view word) {
  while (true) {
    const size_t bar = choices.find('|');
    if (choices.substr(0, bar) == word) return true;
    if (bar == std::string_view::npos) return false;
    choices.remove_prefix(bar + 1);
  }
}

/// The row's own word for a choice, or nothing. Tri-states know on = always = true and off = never = false; where a row
/// has no `auto` of its own, auto is off.
std::optional<std::string> parse_choice(const OptionLimits& limits, std::string_view text) {
  if (has_choice(limits.choices, text)) return std::string(text);
  if (!limits.tri_state) return std::nullopt;
  const std::optional<bool> flag = text == "always"                    ? true
                                   : text == "never" || text == "auto" ? false
                                                                       : parse_bool(text);
  if (!flag) return std::nullopt;
  for (std::string_view word : *flag ? std::array{"on", "always"} : std::array{"off", "never"}) {
    if (has_choice(limits.choices, word)) return std::string(word);
  }
  return std::nullopt;
}

std::optional<CoercedValue> coerce_integer(const OptionLimits& limits, std::string_view text) {
  const std::optional<int64_t> value = parse_integer(text);
  if (!value) return std::nullopt;
  if (!limits.choices.empty()) {
    if (!has_choice(limits.choices, std::to_string(*value))) return std::nullopt;
    return CoercedValue{*value, ""};
  }
  if (limits.zero_is_off) {
    if (*value == 0) return CoercedValue{*value, ""};
    if (*value < 0) return std::nullopt;
  }
  if (*value >= limits.min && *value <= limits.max) return CoercedValue{*value, ""};
  const bool is_less = *value < limits.min;
  if (is_less ? !limits.clamp_below : !limits.clamp_above) return std::nullopt;
  const int64_t nearest = is_less ? limits.min : limits.max;
  return CoercedValue{nearest, cat(*value, is_less ? " is below the least value, " : " is above the largest value, ",
                                   nearest, ", which is used instead")};
}

std::optional<CoercedValue> coerce_unchecked(const OptionLimits& limits, std::string_view text) {
  switch (limits.type) {
    case OptionType::boolean:
      if (const auto value = parse_bool(text)) return CoercedValue{*value, ""};
      return std::nullopt;
    case OptionType::integer: return coerce_integer(limits, text);
    case OptionType::number:
      if (const auto value = parse_number(text); value && *value >= 0 && *value < limits.below)
        return CoercedValue{*value, ""};
      return std::nullopt;
    case OptionType::choice:
      if (auto value = parse_choice(limits, text)) return CoercedValue{*std::move(value), ""};
      return std::nullopt;
    case OptionType::path:
      for (size_t at = 0; at < text.size();) {
        const size_t length = utf8_length(text.substr(at));
        if (length == 0 || text[at] == '\0') return std::nullopt;
        at += length;
      }
      return CoercedValue{std::string(text), ""};
  }
  return std::nullopt;
}

/// ", at most N" where the text is a number beyond the N that allowed_text() leaves out.
std::string upper_bound_text(const OptionLimits& limits, std::string_view text) {
  const bool is_number = !text.empty() && text.find_first_not_of("0123456789_") == std::string_view::npos;
  if (limits.type != OptionType::integer || !limits.choices.empty() || !is_number) return "";
  return limits.max == OptionLimits{}.max ? cat(", at most ", limits.max) : "";
}

}  // namespace

CoercedValue coerce(const OptionRow& row, std::string_view text, std::string_view where) {
  std::optional<CoercedValue> result = coerce_unchecked(row.limits, text);
  if (!result) {
    fail(ErrorCode::invalid_argument, where, ": ", row.key, " = ", quoted_text(text), " is not allowed: expected ",
         allowed_text(row), upper_bound_text(row.limits, text), " (default ", format_value(default_value(row)), ")");
  }
  if (row.status == OptionStatus::pending && result->value != default_value(row)) {
    fail(ErrorCode::invalid_argument, where, ": ", row.key, " = ", format_value(result->value),
         " is not implemented yet: this version only accepts the default, ", format_value(default_value(row)),
         "; remove the setting or give it that value");
  }
  if (!result->warning.empty()) result->warning = cat(where, ": ", row.key, ": ", result->warning);
  return *std::move(result);
}

std::string format_value(const OptionValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) {
    std::string out = "\"";
    for (char c : *text) {
      if (c == '\\' || c == '"') out += '\\';
      if (c == '\n' || c == '\t') {
        out += c == '\n' ? "\\n" : "\\t";
      } else {
        out += c;
      }
    }
    return out + '"';
  }
  if (const auto* number = std::get_if<double>(&value)) {
    const std::string out = cat(*number);
    return out.find_first_of(".e") == std::string::npos ? out + ".0" : out;
  }
  if (const auto* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
  return cat(std::get<int64_t>(value));
}

std::string quoted_text(std::string_view text) {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string out = "\"";
  size_t at = 0;
  while (at < text.size() && at < 80) {
    const auto c = static_cast<unsigned char>(text[at]);
    const size_t length = utf8_length(text.substr(at));
    if (length == 0 || c < 0x20 || c == 0x7f) {
      out += cat("\\x", kHex[c >> 4], kHex[c & 15]);
      ++at;
    } else {
      out += text.substr(at, length);
      at += length;
    }
  }
  return out + (at < text.size() ? "...\"" : "\"");
}

namespace {

/// Levenshtein's distance: inserted, deleted or replaced bytes.
int edit_distance(std::string_view a, std::string_view b) {
  std::string row(b.size() + 1, 0);  // distances fit a byte: callers compare words of at most 64 bytes
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<char>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    char diagonal = row[0];
    row[0] = static_cast<char>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const char replaced = static_cast<char>(diagonal + (a[i - 1] != b[j - 1]));
      diagonal = row[j];
      row[j] = std::min({replaced, static_cast<char>(row[j] + 1), static_cast<char>(row[j - 1] + 1)});
    }
  }
  return row[b.size()];
}

}  // namespace

void Suggestion::offer(std::string_view candidate) {
  if (word_.size() > 62 || candidate.size() > word_.size() + 2 || word_.size() > candidate.size() + 2) return;
  const int distance = edit_distance(word_, candidate);
  if (distance >= distance_) return;
  distance_ = distance;
  best_ = candidate;
}

std::string Suggestion::text() const { return best_.empty() ? "" : cat(" (did you mean ", best_, "?)"); }

}  // namespace imp
