#pragma once
#include <array>
#include <cstdint>

namespace imp {

/// Philox 4x32 with ten rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011): 128 random bits
/// for a 128-bit counter under a 64-bit key. No state: the same counter always gives the same bits.
std::array<uint32_t, 4> philox_4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

}  // namespace imp
