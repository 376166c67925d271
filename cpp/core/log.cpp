#include "core/log.h"

#include <cstdio>
#include <mutex>
#include <string>

namespace imp {
namespace {

struct Sink {
  std::mutex mutex;
  LogSink write;
  LogLevel lowest = LogLevel::warn;
};

// The log is the one process-wide object: it carries no behaviour, only where lines are written.
Sink& sink() {
  static Sink instance;
  return instance;
}

}  // namespace

void set_log_sink(LogSink write) {
  std::lock_guard lock(sink().mutex);
  sink().write = std::move(write);
}

void set_log_level(LogLevel lowest) {
  std::lock_guard lock(sink().mutex);
  sink().lowest = lowest;
}

void log_line(LogLevel level, std::string_view line) {
  std::lock_guard lock(sink().mutex);
  if (level < sink().lowest) return;
  if (sink().write) {
    sink().write(level, line);
  } else {
    std::fprintf(stderr, "imp: %.*s\n", static_cast<int>(line.size()), line.data());
  }
}

}  // namespace imp
