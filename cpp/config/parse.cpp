#include "config/parse.h"

#include <algorithm>

#include "config/value.h"
#include "core/error.h"

namespace imp {
namespace {

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f'; }

bool is_name(std::string_view text) {
  const auto is_name_char = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
           c == '.';
  };
  return !text.empty() && std::all_of(text.begin(), text.end(), is_name_char);
}

/// What may follow a section header or value: nothing, or blanks and a comment.
bool is_line_end(std::string_view rest) {
  const std::string_view content = trim(rest);
  return content.empty() || (content[0] == '#' && is_blank(rest[0]));
}

struct Scanner {
  std::string_view file_name;
  int line = 0;

  template <class... Parts>
  [[noreturn]] void malformed(const Parts&... parts) const {
    fail(ErrorCode::invalid_argument, file_name, line > 0 ? cat(":", line) : "", ": ", parts...);
  }

  std::string_view section(std::string_view content) const {
    const size_t close = content.find(']');
    if (close == std::string_view::npos) malformed("section header without ']': ", quoted_text(content));
    const std::string_view name = trim(content.substr(1, close - 1));
    if (!is_name(name)) malformed("section name ", quoted_text(name), " is not a word of letters, digits and '_'");
    if (!is_line_end(content.substr(close + 1)))
      malformed("text after the section header: ", quoted_text(content.substr(close + 1)));
    return name;
  }

  /// Reads the quoted string at the start of `text` into `value`; gives what follows it.
  std::string_view quoted_string(std::string_view text, std::string& value) const {
    const char quote = text[0];
    for (size_t i = 1; i < text.size(); ++i) {
      if (text[i] == quote) return text.substr(i + 1);
      if (quote == '"' && text[i] == '\\') {
        if (++i == text.size()) break;
        value += escaped(text[i]);
      } else {
        value += text[i];
      }
    }
    malformed("string without closing ", quote, ": ", quoted_text(text));
  }

  char escaped(char c) const {
    switch (c) {
      case '\\':
      case '"': return c;
      case 'n': return '\n';
      case 't': return '\t';
      default:
        malformed("unknown escape \\", quoted_text(std::string_view(&c, 1)),
                  R"(; \\ \" \n \t exist, and '...' takes every character as it is)");
    }
  }

  std::string value(std::string_view text) const {
    std::string out;
    std::string_view rest;
    if (!text.empty() && (text[0] == '"' || text[0] == '\'')) {
      rest = quoted_string(text, out);
    } else if (text.empty() || text[0] == '#') {
      return out;  // `key =` and `key = # comment`
    } else {
      const size_t end = std::min<size_t>(std::find_if(text.begin(), text.end(), is_blank) - text.begin(), text.size());
      out = text.substr(0, end);
      if (out.find('#') != std::string::npos)
        malformed("value ", quoted_text(out), ": quote it, or put a blank before '#'");
      rest = text.substr(end);
    }
    if (!is_line_end(rest)) {
      malformed("text after the value: ", quoted_text(trim(rest)),
                "; a value with blanks needs quotes, a comment a blank and '#'");
    }
    return out;
  }
};

}  // namespace

std::string_view trim(std::string_view text) {
  while (!text.empty() && is_blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_blank(text.back())) text.remove_suffix(1);
  return text;
}

void parse_config_lines(std::string_view text, std::string_view file_name, const ConfigLineHandler& handler) {
  if (text.size() > kMaxConfigBytes) {
    fail(ErrorCode::invalid_argument, file_name, ": ", text.size(), " bytes; a configuration file has at most ",
         kMaxConfigBytes);
  }
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  Scanner scanner{file_name};
  std::string_view section;
  while (!text.empty()) {
    ++scanner.line;
    const size_t newline = text.find('\n');
    const std::string_view content = trim(text.substr(0, newline));
    text.remove_prefix(newline == std::string_view::npos ? text.size() : newline + 1);
    if (content.empty() || content[0] == '#') continue;
    if (content[0] == '[') {
      section = scanner.section(content);
      handler.on_section(section, scanner.line);
      continue;
    }
    const size_t equals = content.find('=');
    if (equals == std::string_view::npos) {
      scanner.malformed("expected \"key = value\", \"[section]\" or \"# comment\", found ", quoted_text(content));
    }
    const std::string_view key = trim(content.substr(0, equals));
    if (!is_name(key)) scanner.malformed("key ", quoted_text(key), " is not a word of letters, digits and '_'");
    handler.on_value({section, key, scanner.value(trim(content.substr(equals + 1))), scanner.line});
  }
}

std::optional<std::string> unquote(std::string_view text) {
  if (text.size() < 2 || (text[0] != '"' && text[0] != '\'')) return std::nullopt;
  std::string out;
  if (!Scanner{"--set"}.quoted_string(text, out).empty()) return std::nullopt;
  return out;
}

}  // namespace imp
