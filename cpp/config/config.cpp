#include "config/config.h"

#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "config/options.h"
#include "config/parse.h"
#include "config/value.h"
#include "core/error.h"
#include "core/json.h"
#include "core/log.h"

namespace imp {
std::string_view origin_name(Origin origin) {
  switch (origin) {
    case Origin::default_value: return "default";
    case Origin::environment: return "env";
    case Origin::file: return "file";
    case Origin::set: return "set";
    case Origin::flag: return "flag";
    case Origin::api: return "api";
    case Origin::implied: return "implied";
    case Origin::automatic: return "auto";
  }
  return "";
}

namespace {

constexpr size_t kMaxWarnings = 100;

/// Precedence of what a user can give; a higher one stands against a lower one whatever the order of the calls.
int rank(Origin origin) {
  switch (origin) {
    case Origin::environment: return 1;
    case Origin::file: return 2;
    case Origin::set:
    case Origin::api: return 3;
    case Origin::flag: return 4;
    default: return 0;
  }
}

std::string_view environment(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? "" : text;
}

std::string home_directory() {
  if (const std::string_view home = environment("HOME"); !home.empty()) return std::string(home);
  const passwd* user = getpwuid(getuid());
  return user == nullptr || user->pw_dir == nullptr ? "" : user->pw_dir;
}

bool exists(const std::string& path) {
  struct stat info{};
  return stat(path.c_str(), &info) == 0;
}

std::string read_config_file(const std::string& path) {
  struct stat info{};
  if (stat(path.c_str(), &info) != 0) {
    fail(ErrorCode::invalid_argument, path, ": no such configuration file; check --config or IMP_CONFIG");
  }
  if (S_ISDIR(info.st_mode)) fail(ErrorCode::invalid_argument, path, ": is a directory, expected a configuration file");
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(ErrorCode::invalid_argument, path, ": cannot be opened for reading; check its permissions");
  std::string text(kMaxConfigBytes + 1, '\0');  // one byte more than allowed, so that a larger file (or a pipe) shows
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) fail(ErrorCode::invalid_argument, path, ": reading failed");
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kMaxConfigBytes) {
    fail(ErrorCode::invalid_argument, path, ": larger than ", kMaxConfigBytes,
         " bytes, which no configuration file is");
  }
  return text;
}

const OptionRow& option(std::string_view key, std::string_view where) {
  if (const OptionRow* row = find_option(key)) return *row;
  Suggestion suggestion(key);
  for (const OptionRow& row : option_rows()) suggestion.offer(row.key);
  fail(ErrorCode::invalid_argument, where, where.empty() ? "" : ": ", "no key ", quoted_text(key), suggestion.text(),
       key.find('.') == std::string_view::npos ? "; a key is written section.name" : "",
       "; `imp config keys` lists all");
}

bool is_section(std::string_view name) {
  return std::any_of(option_rows().begin(), option_rows().end(),
                     [&](const OptionRow& row) { return row.section() == name; });
}

std::string unknown_section(std::string_view section) {
  if (section == "gemma4") {
    return "section [gemma4] is not read any more: what it set is chosen for each model when it is loaded";
  }
  Suggestion suggestion(section);
  for (const OptionRow& row : option_rows()) suggestion.offer(row.section());
  return cat("unknown section ", quoted_text(section), suggestion.text(), "; its settings are not used");
}

std::string unknown_key(std::string_view section, std::string_view name) {
  if (section.empty()) return cat("key ", quoted_text(name), " stands before any [section] and is not used");
  Suggestion suggestion(name);
  std::string elsewhere;
  for (const OptionRow& row : option_rows()) {
    if (row.section() == section) suggestion.offer(row.name());
    if (row.name() == name) elsewhere = cat(" (", name, " belongs to section [", row.section(), "])");
  }
  return cat("unknown key ", quoted_text(name), " in section [", section, "]",
             elsewhere.empty() ? suggestion.text() : elsewhere, "; it is not used");
}

std::string default_detail(Origin origin, std::string_view key, std::string_view value) {
  const std::string assignment = cat(key, "=", quoted_text(value));
  return origin == Origin::set ? "--set " + assignment : assignment;
}

}  // namespace

Config::Config() = default;

Config Config::defaults_for_embedders() {
  Config config;
  config.settings_.server.prefix_cache = false;
  config.sources_["server.prefix_cache"] = {Origin::default_value, "off for programs that embed imp"};
  return config;
}

Config Config::load(const std::string& explicit_path) {
  Config config;
  config.seed_from_environment();
  const std::string_view from_environment = environment("IMP_CONFIG");
  const std::string home = home_directory();
  const std::string in_home = home.empty() ? "" : home + "/.config/imp/imp.conf";
  if (!explicit_path.empty()) {
    config.load_file(explicit_path);
  } else if (!from_environment.empty()) {
    config.load_file(std::string(from_environment));
  } else if (exists("imp.conf")) {
    config.load_file("imp.conf");
  } else if (!in_home.empty() && exists(in_home)) {
    config.load_file(in_home);
  }
  if (!config.file_.empty()) log_info("config file=", config.file_);
  return config;
}

void Config::seed_from_environment() {
  constexpr const char* kName = "IMP_DETERMINISTIC";
  if (const std::string_view text = environment(kName); !text.empty()) {
    set("runtime.deterministic", text, Origin::environment, kName);
  }
}

void Config::load_file(const std::string& path) {
  load_text(read_config_file(path), path);
  file_ = path;
}

void Config::load_text(std::string_view text, std::string_view file_name) {
  // Into a copy: an error in line 20 leaves nothing of lines 1 to 19 behind.
  Config next = *this;
  bool known_section = false;
  std::map<const OptionRow*, int> seen;  // key -> line
  const auto on_section = [&](std::string_view section, int line) {
    known_section = is_section(section);
    if (!known_section) next.warn(cat(file_name, ":", line, ": ", unknown_section(section)));
  };
  const auto on_value = [&](const ConfigLine& line) {
    if (!line.section.empty() && !known_section) return;
    const std::string where = cat(file_name, ":", line.line);
    const OptionRow* row = line.section.empty() ? nullptr : find_option(cat(line.section, ".", line.key));
    if (row == nullptr) {
      if (next.warnings_.size() <= kMaxWarnings) next.warn(cat(where, ": ", unknown_key(line.section, line.key)));
      return;
    }
    if (const auto [before, is_new] = seen.try_emplace(row, line.line); !is_new) {
      next.warn(cat(where, ": ", row->key, " was set in line ", before->second, " already; the last one counts"));
      before->second = line.line;
    }
    next.set(row->key, line.value, Origin::file, where);
  };
  parse_config_lines(text, file_name, {on_section, on_value});
  *this = std::move(next);
}

void Config::set(std::string_view key, std::string_view value, Origin origin, std::string_view detail) {
  const std::string where = detail.empty() ? default_detail(origin, key, value) : std::string(detail);
  const OptionRow& row = option(key, where);
  CoercedValue coerced = coerce(row, value, where);
  const OptionSource& before = source(key);
  const bool on_command_line = rank(before.origin) >= rank(Origin::set) && rank(origin) >= rank(Origin::set);
  if (on_command_line && rank(before.origin) != rank(origin) && coerced.value != read_option(row, settings_)) {
    fail(ErrorCode::invalid_argument, where, " and ", before.detail, " give ", key, " two values, ",
         format_value(coerced.value), " and ", format_value(read_option(row, settings_)), "; keep one of them");
  }
  if (!coerced.warning.empty()) warn(std::move(coerced.warning));
  if (rank(before.origin) > rank(origin)) return;
  assign(row.key, std::move(coerced.value), origin, where);
}

void Config::set_assignment(std::string_view text) {
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos) {
    fail(ErrorCode::invalid_argument, "--set ", quoted_text(text), ": expected section.key=value");
  }
  const std::string_view value = trim(text.substr(equals + 1));
  set(trim(text.substr(0, equals)), unquote(value).value_or(std::string(value)), Origin::set,
      cat("--set ", quoted_text(text)));
}

OptionValue Config::get(std::string_view key) const { return read_option(option(key, ""), settings_); }

const OptionSource& Config::source(std::string_view key) const {
  static const OptionSource kDefault;
  const auto found = sources_.find(option(key, "").key);
  return found == sources_.end() ? kDefault : found->second;
}

bool Config::is_explicit(std::string_view key) const { return rank(source(key).origin) >= rank(Origin::file); }

void Config::require_no_warnings() const {
  if (warnings_.empty()) return;
  std::string all;
  for (const std::string& warning : warnings_) all += "\n  " + warning;
  fail(ErrorCode::invalid_argument, "the configuration is checked strictly, and these count as errors:", all);
}

void Config::set_automatic(std::string_view key, OptionValue value, std::string_view reason) {
  const OptionRow& row = option(key, reason);
  if (value.index() != default_value(row).index()) {
    fail(ErrorCode::internal, key, ": an automatic value of the wrong type, ", format_value(value));
  }
  assign(row.key, std::move(value), Origin::automatic, reason);
}

std::string Config::dump() const {
  std::string out;
  std::string_view section;
  for (const OptionRow& row : option_rows()) {
    if (row.section() != section) {
      out += cat(section.empty() ? "" : "\n", "[", row.section(), "]\n");
      section = row.section();
    }
    const OptionSource& from = source(row.key);
    const OptionValue value = read_option(row, settings_);
    // What the engine derived is shown, not set: reading the dump and resolving it derives it again.
    const bool is_derived = rank(from.origin) == 0 && value != default_value(row);
    out += cat(is_derived ? "# " : "", row.name(), " = ", format_value(value));
    std::string reason = is_derived ? cat("  # ", origin_name(from.origin), ": ", from.detail) : "";
    std::replace(reason.begin(), reason.end(), '\n', ' ');
    out += reason + "\n";
  }
  return out;
}

std::string Config::to_json() const {
  JsonWriter json;
  json.begin_object();
  for (const OptionRow& row : option_rows()) {
    const OptionSource& from = source(row.key);
    json.key(row.key).begin_object().key("value");
    std::visit([&](const auto& value) { json.value(value); }, read_option(row, settings_));
    json.field("origin", origin_name(from.origin)).field("detail", from.detail).end_object();
  }
  return json.end_object().text();
}

void Config::assign(std::string_view key, OptionValue value, Origin origin, std::string_view detail) {
  write_option(option(key, detail), settings_, value);
  sources_.insert_or_assign(std::string(key), OptionSource{origin, std::string(detail)});
}

void Config::warn(std::string text) {
  if (warnings_.size() > kMaxWarnings) return;
  if (warnings_.size() == kMaxWarnings) text = "more warnings are left out";
  if (std::find(warnings_.begin(), warnings_.end(), text) == warnings_.end()) warnings_.push_back(std::move(text));
}

}  // namespace imp
