#pragma once
#include <cstdint>
#include <string>

namespace imp {

/// "812.4 MiB"
std::string format_bytes(uint64_t bytes);
/// The same, rounded up: whoever takes it for a limit has room for the bytes.
std::string format_bytes_up(uint64_t bytes);

}  // namespace imp
