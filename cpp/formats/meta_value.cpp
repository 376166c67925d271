#include "formats/meta_value.h"

#include <limits>

#include "core/error.h"
#include "formats/quoted.h"

namespace imp {
namespace {

constexpr std::string_view kKindNames[] = {
    "a boolean",          "an integer",           "an integer",           "a float",
    "a string",           "an array of booleans", "an array of integers", "an array of integers",
    "an array of floats", "an array of strings"};
static_assert(std::size(kKindNames) == std::variant_size_v<MetaValue>);

[[noreturn]] void fail_kind(const std::string& path, std::string_view key, std::string_view expected,
                            const MetaValue& found) {
  fail(ErrorCode::invalid_model, path, ": key ", quoted(key), ": expected ", expected, ", found ",
       kKindNames[found.index()]);
}

template <class T>
const T& as(const std::string& path, std::string_view key, std::string_view expected, const MetaValue& value) {
  const T* held = std::get_if<T>(&value);
  if (!held) fail_kind(path, key, expected, value);
  return *held;
}

}  // namespace

int64_t meta_int(const std::string& path, std::string_view key, const MetaValue& value) {
  if (const auto* number = std::get_if<int64_t>(&value)) return *number;
  const auto* number = std::get_if<uint64_t>(&value);
  if (!number) fail_kind(path, key, "an integer", value);
  if (*number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    fail(ErrorCode::invalid_model, path, ": key ", quoted(key), ": ", *number, " is too large");
  }
  return static_cast<int64_t>(*number);
}

double meta_float(const std::string& path, std::string_view key, const MetaValue& value) {
  return as<double>(path, key, "a float", value);
}

bool meta_bool(const std::string& path, std::string_view key, const MetaValue& value) {
  return as<bool>(path, key, "a boolean", value);
}

const std::string& meta_string(const std::string& path, std::string_view key, const MetaValue& value) {
  return as<std::string>(path, key, "a string", value);
}

const std::vector<std::string>& meta_strings(const std::string& path, std::string_view key, const MetaValue& value) {
  return as<std::vector<std::string>>(path, key, "an array of strings", value);
}

}  // namespace imp
