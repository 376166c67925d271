#pragma once
#include <functional>
#include <string_view>

#include "core/text.h"

namespace imp {

enum class LogLevel { debug, info, warn, error };

/// Where log lines go. The default sink writes "imp: <line>" to stderr at `warn` and above.
/// Called from any thread; the sink must not throw.
using LogSink = std::function<void(LogLevel, std::string_view line)>;

void set_log_sink(LogSink sink);  // an empty sink restores the default
void set_log_level(LogLevel lowest);
void log_line(LogLevel level, std::string_view line);

template <class... Parts>
void log_info(const Parts&... parts) {
  log_line(LogLevel::info, cat(parts...));
}
template <class... Parts>
void log_warn(const Parts&... parts) {
  log_line(LogLevel::warn, cat(parts...));
}

}  // namespace imp
