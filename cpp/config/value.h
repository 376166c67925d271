#pragma once
#include <string>
#include <string_view>

#include "config/options.h"

namespace imp {

struct CoercedValue {
  OptionValue value;
  std::string warning;  // set where the value was brought into range
};

/// Text to value by the rules of docs/configuration.md. `where` opens every message ("imp.conf:12"). A value that the
/// row does not take, and any value but the default of a pending row, is an invalid_argument error.
CoercedValue coerce(const OptionRow& row, std::string_view text, std::string_view where);

/// The value as a file writes it: strings quoted, floats shortest and with a point.
std::string format_value(const OptionValue& value);

/// `text` between quotes for a message: control bytes and what is not UTF-8 escaped, cut after 80 bytes.
std::string quoted_text(std::string_view text);

/// ` (did you mean "x"?)` for the candidate within two edits of `word`, else "".
class Suggestion {
 public:
  explicit Suggestion(std::string_view word) : word_(word) {}
  void offer(std::string_view candidate);
  std::string text() const;

 private:
  std::string_view word_;
  std::string_view best_;
  int distance_ = 3;
};

}  // namespace imp
