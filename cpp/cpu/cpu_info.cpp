#include "cpu/cpu_info.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <string_view>
#include <vector>

#include "core/text.h"

namespace imp::cpu {
namespace {

constexpr int kMaxCores = 64;

std::optional<std::string> first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return line;
}

/// The value after "<key>...:" in a file of such lines (/proc/cpuinfo, /proc/meminfo), its first occurrence.
std::optional<std::string> value_of(const std::string& path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos || !line.starts_with(key)) continue;
    const size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return std::nullopt;
}

/// CPUs this process may run on, hyper-threads of one core counted once.
int cores_of_affinity() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  std::set<std::string> cores;  // each core by the list of its threads, which all of them report alike
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &set)) continue;
    const auto siblings = first_line(cat("/sys/devices/system/cpu/cpu", cpu, "/topology/thread_siblings_list"));
    cores.insert(siblings ? *siblings : cat("cpu", cpu));
  }
  return static_cast<int>(cores.size());
}

/// Directories of this process's control group (version 2), from its own up to the root, as far as they are visible.
std::vector<std::string> group_dirs() {
  std::vector<std::string> dirs;
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("0::")) continue;
    for (std::string path = line.substr(3); path.size() > 1; path.resize(path.rfind('/')))
      dirs.push_back("/sys/fs/cgroup" + path);
  }
  dirs.push_back("/sys/fs/cgroup");
  return dirs;
}

/// CPU time that the control groups allow, in whole CPUs rounded up; a large number where there is no limit.
int cores_of_quota() {
  int cores = kMaxCores;
  const auto limit = [&](double quota, double period) {
    if (quota > 0 && period > 0) cores = std::min(cores, std::max(1, static_cast<int>((quota + period - 1) / period)));
  };
  for (const std::string& dir : group_dirs()) {
    std::ifstream file(dir + "/cpu.max");  // "max 100000" or "150000 100000"
    double quota = 0, period = 0;
    if (file >> quota >> period) limit(quota, period);
  }
  const auto quota = first_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");  // version 1
  const auto period = first_line("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  if (quota && period) {
    double q = 0, p = 0;
    std::istringstream(*quota) >> q;
    std::istringstream(*period) >> p;
    limit(q, p);
  }
  return cores;
}

uint64_t meminfo_bytes(std::string_view key) {
  const auto text = value_of("/proc/meminfo", key);
  uint64_t kib = 0;
  if (text) std::istringstream(*text) >> kib;
  return kib << 10;
}

}  // namespace

std::string cpu_brand() {
  if (const auto brand = value_of("/proc/cpuinfo", "model name")) return *brand;
  return "CPU";
}

int usable_cores() { return std::clamp(std::min(cores_of_affinity(), cores_of_quota()), 1, kMaxCores); }

uint64_t total_memory_bytes() {
  uint64_t total = meminfo_bytes("MemTotal");
  for (const std::string& dir : group_dirs()) {
    std::ifstream file(dir + "/memory.max");
    uint64_t limit = 0;
    if (file >> limit) total = std::min(total, limit);
  }
  return total;
}

uint64_t available_memory_bytes() {
  uint64_t available = meminfo_bytes("MemAvailable");
  for (const std::string& dir : group_dirs()) {
    std::ifstream max_file(dir + "/memory.max"), current_file(dir + "/memory.current");
    uint64_t limit = 0, current = 0;
    if (max_file >> limit && current_file >> current)
      available = std::min(available, limit > current ? limit - current : 0);
  }
  return available;
}

}  // namespace imp::cpu
