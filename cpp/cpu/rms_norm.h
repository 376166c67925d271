#pragma once
#include <string_view>

#include "cpu/context.h"
#include "cpu/elementwise.h"
#include "ops/args.h"

namespace imp::cpu {

using RmsNormTable = KernelTable<IsaProblem, void (*)(const RmsNormArgs&, Range rows)>;
const RmsNormTable& rms_norm_table();
/// Runs the op; gives the kernel's name.
std::string_view run_rms_norm(const CpuContext& context, const RmsNormArgs& args);

}  // namespace imp::cpu
