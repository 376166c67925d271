#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "core/parallel.h"
#include "cpu/isa.h"

namespace imp::cpu {

/// What the ops of the CPU backend run with.
struct CpuContext {
  ThreadPool& pool;
  Isa isa;
  std::string_view force_linear;  // name of the only linear candidate allowed, or empty
  /// Memory for one op call, shared by all ops in turn, aligned to 64. Reserved, not committed: pages that no op
  /// touches cost nothing. Contents are undefined at the start of an op.
  std::span<std::byte> scratch;
};

inline constexpr uint64_t kScratchBytes = uint64_t{256} << 20;

}  // namespace imp::cpu
