#pragma once
#include <stdexcept>
#include <string>

#include "core/text.h"

namespace imp {

/// Values are those of `imp_status` in imp.h; the two are compared by a test.
enum class ErrorCode : int {
  ok = 0,
  invalid_argument = -1,  // a request, option or call that cannot be served as asked
  out_of_memory = -2,
  cuda = -3,  // the device or its driver failed
  file_not_found = -4,
  invalid_model = -5,  // a model file that is damaged, inconsistent or not a model
  unsupported = -6,    // well-formed, but this build or machine cannot do it
  internal = -7,       // a bug in imp
  cancelled = -8,
  io = -9,  // reading or writing a file failed
};

std::string_view error_name(ErrorCode code);

/// The one exception type. The message says what, where, expected, found, and what to do.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

template <class... Parts>
[[noreturn]] void fail(ErrorCode code, const Parts&... parts) {
  throw Error(code, cat(parts...));
}

}  // namespace imp
