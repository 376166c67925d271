#include "core/format_bytes.h"

#include <array>
#include <cmath>
#include <cstdio>

namespace imp {
namespace {

std::string format(uint64_t bytes, bool up) {
  constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  if (up) value = std::ceil(value * 10) / 10;
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text;
}

}  // namespace

std::string format_bytes(uint64_t bytes) { return format(bytes, false); }
std::string format_bytes_up(uint64_t bytes) { return format(bytes, true); }

}  // namespace imp
