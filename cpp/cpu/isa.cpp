#include "cpu/isa.h"

#include "core/error.h"

namespace imp::cpu {

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::reference: return "reference";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
  }
  return "?";
}

Isa detect_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni");
  if (avx2 && avx512) return Isa::avx512;
  if (avx2) return Isa::avx2;
#endif
  return Isa::reference;
}

Isa choose_isa(std::string_view forced) {
  const Isa best = detect_isa();
  if (forced.empty()) return best;
  for (const Isa isa : {Isa::reference, Isa::avx2, Isa::avx512}) {
    if (isa_name(isa) != forced) continue;
    if (isa <= best) return isa;
    fail(ErrorCode::unsupported, "instruction set ", forced, " was asked for, but this CPU has only ", isa_name(best));
  }
  fail(ErrorCode::invalid_argument, "instruction set \"", forced, "\" is not known: use reference, avx2 or avx512");
}

}  // namespace imp::cpu
