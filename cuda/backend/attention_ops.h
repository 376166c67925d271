#pragma once
#include "attention/attention.h"
#include "exec/backend.h"
#include "ops/args.h"
#include "ops/kernel_table.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// What attention runs with: the device, and memory taken at load.
struct AttentionContext {
  LaunchContext launch;
  AttentionScratch scratch;
  int capability;  // of the device: 90 for sm_90
};

/// An attention as the choice of a kernel sees it; host data alone.
struct AttentionProblem {
  int num_sequences;
  int max_query_len, max_context_len;
  int num_heads, num_kv_heads, head_dim;
  int sliding_window;
  int num_counters;  // of the scratch
  int capability;

  int query_rows() const { return max_query_len * (num_heads / num_kv_heads); }  // of one kv head
};

using AttentionLaunch = void (*)(const AttentionContext&, const AttentionArgs&);
const KernelTable<AttentionProblem, AttentionLaunch>& attention_table();

void run_attention(const AttentionContext& context, const AttentionArgs& args);
std::vector<Verdict> explain_attention(const AttentionContext& context, const AttentionQuery& query);

/// Throws where a layer of the model has attention that no kernel here can compute: at load, not in a step.
void check_attention(const ModelSpec& spec);

}  // namespace imp::cuda
