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

}  // namespace imp
