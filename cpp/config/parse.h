#pragma once
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace imp {

inline constexpr size_t kMaxConfigBytes = 1 << 20;

/// One `key = value` line. `section` is empty before the first header.
struct ConfigLine {
  std::string_view section;
  std::string_view key;
  std::string value;  // quotes and escapes resolved
  int line = 0;
};

/// Reads the lines of a file: blank, `# comment`, `[section]`, `key = value`. CRLF and a byte order mark are tolerated.
/// A line that is none of these is an invalid_argument error naming `file_name` and the line. Views last as long as
/// `text`.
struct ConfigLineHandler {
  std::function<void(std::string_view section, int line)> on_section;
  std::function<void(const ConfigLine&)> on_value;
};
void parse_config_lines(std::string_view text, std::string_view file_name, const ConfigLineHandler& handler);

/// The content of `text` where it is one quoted string from end to end; nothing where it is not.
std::optional<std::string> unquote(std::string_view text);

std::string_view trim(std::string_view text);

}  // namespace imp
