#pragma once
#include <cstdint>
#include <string_view>

namespace imp::cpu {

/// What the CPU backend may use, each level including the ones before.
///  avx2:   AVX2 + FMA + F16C;  avx512: F, BW, DQ, VL, VNNI.
enum class Isa : uint8_t { reference, avx2, avx512 };

std::string_view isa_name(Isa isa);

/// The best level that this machine and its operating system allow.
Isa detect_isa();
/// `forced` is "" (detect), "reference", "avx2" or "avx512"; a level that the machine lacks is an `unsupported` error.
Isa choose_isa(std::string_view forced);

}  // namespace imp::cpu
