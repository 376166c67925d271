#pragma once
#include <string_view>

#include "cpu/context.h"
#include "exec/backend.h"
#include "ops/args.h"
#include "ops/kernel_table.h"

namespace imp::cpu {

/// An attention as the choice of its kernel sees it.
struct AttentionProblem {
  Isa isa;
  int block_size;
  AttentionQuery query;
};
using AttentionTable = KernelTable<AttentionProblem, void (*)(const CpuContext&, const AttentionArgs&)>;

const AttentionTable& attention_table();

/// Runs the op; gives the kernel's name. Results depend on neither the number of threads nor the rest of the batch.
std::string_view run_attention(const CpuContext& context, const AttentionArgs& args);

}  // namespace imp::cpu
