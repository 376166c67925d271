#pragma once
#include <span>
#include <string>
#include <string_view>

#include "config/config.h"

namespace imp {

/// Every key as JSON: [{"name", "type", "default", "allowed", "status", "class", "doc"}, ...], in the order of the
/// file.
std::string options_json();

/// Every key as text for a terminal: name, type, default, status, allowed values and the sentence.
std::string options_help();

/// A key that another key sets, and what to.
struct ImpliedSetting {
  std::string_view key;
  OptionValue value;
};

/// What runtime.debug_raw means key by key.
std::span<const ImpliedSetting> debug_raw_settings();

}  // namespace imp
