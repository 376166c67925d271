#pragma once
#include <cstdint>
#include <string>

namespace imp {

/// "812.4 MiB"
std::string format_bytes(uint64_t bytes);

}  // namespace imp
