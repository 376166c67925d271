#pragma once
#include <string_view>

#include "cpu/context.h"
#include "ops/args.h"

namespace imp::cpu {

/// One kernel for all machines: a row of each format through its dequantizer, tokens shared among the workers.
std::string_view run_embed(const CpuContext& context, const EmbedArgs& args);

}  // namespace imp::cpu
