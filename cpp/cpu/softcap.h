#pragma once
#include <string_view>

#include "cpu/context.h"
#include "cpu/elementwise.h"
#include "ops/args.h"

namespace imp::cpu {

using SoftcapTable = KernelTable<IsaProblem, void (*)(float* x, int64_t count, float cap)>;
const SoftcapTable& softcap_table();
std::string_view run_softcap(const CpuContext& context, const SoftcapArgs& args);

}  // namespace imp::cpu
