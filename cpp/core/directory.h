#pragma once
#include <string>
#include <string_view>

namespace imp {

/// Makes the folder `path` where it is missing. Error io, naming the setting `key`, where nothing can be written into
/// it.
void make_writable_directory(const std::string& path, std::string_view key);

}  // namespace imp
