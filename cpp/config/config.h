#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace imp {

using OptionValue = std::variant<bool, int64_t, double, std::string>;

/// Where an effective value came from, lowest precedence first (docs/configuration.md).
enum class Origin : uint8_t { default_value, environment, file, set, flag, api, implied, automatic };

struct OptionSource {
  Origin origin = Origin::default_value;
  std::string detail;  // "imp.conf:12", "IMP_DETERMINISTIC", "--set kv_cache.dtype=fp8", "runtime.deterministic", ""
};

/// All settings, resolved. Plain fields, one a key, grouped by section; the option table in options.cpp binds
/// each row to its field, so that nothing else lists the keys. Read-only once an Engine holds it.
struct Settings {
  struct Runtime {
    bool deterministic_gemm = false;
    bool deterministic = false;
    std::string cuda_graphs = "auto";
    std::string graph_capture_mode = "relaxed";
    bool prefill_graph = true;
    int64_t max_batch_size = 4;
    bool warmup = false;
    int64_t max_seq_len = 0;
    bool no_pdl = false;
    bool debug_raw = false;
    bool no_vision_graph = false;
  } runtime;
  // (the other sections follow the order of the seed; see spec Appendix A)
};

/// Settings with the source of each value. Errors of every method are invalid_argument, with file:line or the
/// text of the override, the allowed values, and "did you mean".
class Config {
 public:
  Config();  // the seed's defaults

  static Config defaults_for_embedders();                    // prefix_cache unset counts as off
  /// File search (--config, $IMP_CONFIG, ./imp.conf, ~/.config/imp/imp.conf), legacy environment seeds.
  static Config load(const std::string& explicit_path = "");
  void load_file(const std::string& path);
  void load_text(std::string_view text, std::string_view file_name);
  void set(std::string_view key, std::string_view value, Origin origin = Origin::set, std::string_view detail = {});

  const Settings& settings() const { return settings_; }
  OptionValue get(std::string_view key) const;
  const OptionSource& source(std::string_view key) const;
  bool is_explicit(std::string_view key) const;               // set by file, --set, flag or api
  const std::vector<std::string>& warnings() const { return warnings_; }
  const std::string& file() const { return file_; }           // the one file read, "" if none

  /// Applies deterministic => deterministic_gemm, debug_raw => ..., and the other rules that need no model
  /// (spec 2.8); recorded with Origin::implied.
  void resolve();
  /// The engine's own automatic decisions (max_seq_len reduced, ...), recorded with Origin::automatic.
  void set_automatic(std::string_view key, OptionValue value, std::string_view reason);

  std::string dump() const;                                   // as a file that load_text() reads back equal
  std::string to_json() const;                                // key -> {value, origin, detail}

 private:
  Settings settings_;
  std::map<std::string, OptionSource, std::less<>> sources_;
  std::vector<std::string> warnings_;
  std::string file_;
};

}  // namespace imp
