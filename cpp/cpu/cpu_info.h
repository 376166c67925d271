#pragma once
#include <cstdint>
#include <string>

namespace imp::cpu {

/// As the processor names itself: "AMD EPYC 9654 96-Core Processor".
std::string cpu_brand();

/// Physical cores that this process may use: its affinity, with hyper-threads counted once, and the quota of its
/// control group; 1 to 64.
int usable_cores();

/// Bytes of memory: of the machine or of the control group, whichever is less.
uint64_t total_memory_bytes();
uint64_t available_memory_bytes();

}  // namespace imp::cpu
