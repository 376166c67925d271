#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "formats/model_file.h"

namespace imp {

// A metadata value as one type, or an invalid_model error; `path` and `key` are for its message.

int64_t meta_int(const std::string& path, std::string_view key, const MetaValue& value);
double meta_float(const std::string& path, std::string_view key, const MetaValue& value);
bool meta_bool(const std::string& path, std::string_view key, const MetaValue& value);
const std::string& meta_string(const std::string& path, std::string_view key, const MetaValue& value);
const std::vector<std::string>& meta_strings(const std::string& path, std::string_view key, const MetaValue& value);

}  // namespace imp
