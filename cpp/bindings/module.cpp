// The extension module imp._core: the engine's classes as they are, without Python conveniences. The public
// API is python/imp, which wraps these.
#include <nanobind/stl/string_view.h>

#include "bindings/bind.h"
#include "core/error.h"
#include "core/log.h"

namespace nb = nanobind;

namespace {

void set_log_level_name(std::string_view name) {
  using imp::LogLevel;
  if (name == "debug") return imp::set_log_level(LogLevel::debug);
  if (name == "info") return imp::set_log_level(LogLevel::info);
  if (name == "warn") return imp::set_log_level(LogLevel::warn);
  if (name == "error") return imp::set_log_level(LogLevel::error);
  imp::fail(imp::ErrorCode::invalid_argument, "unknown log level '", name, "'; use one of debug, info, warn, error");
}

}  // namespace

NB_MODULE(_core, m) {
  m.attr("__version__") = IMP_VERSION;
  m.attr("__commit__") = IMP_COMMIT;
  m.doc() = "Native part of imp. Use the package `imp`; this module has no stability promise.";
  imp::bindings::bind_errors(m);
  imp::bindings::bind_config(m);
  imp::bindings::bind_sampling(m);
  imp::bindings::bind_tokenizer(m);
  imp::bindings::bind_engine(m);
  imp::bindings::bind_model_file(m);
  imp::bindings::bind_machine(m);
  m.def("set_log_level", set_log_level_name, nb::arg("lowest"),
        "Log lines below this level ('debug', 'info', 'warn', 'error') are not written.");
}
