#pragma once
#include <cstdint>
#include <string>

#include "core/format_bytes.h"
#include "kv/layout.h"
#include "model/spec.h"

namespace imp {

/// What the plan is made from. Bytes, tokens and sequences.
struct MemoryQuery {
  uint64_t device_free_bytes = 0;
  uint64_t device_total_bytes = 0;
  bool can_exceed_free = false;     // a host can: pages of a mapped file come and go
  uint64_t budget_bytes = 0;        // asked for by the user; 0: three quarters of what is free, the weights included
  uint64_t weight_bytes = 0;        // as the device holds them
  uint64_t workspace_bytes = 0;     // activations of one step, and what the backend's ops need besides
  uint64_t prefill_copy_bytes = 0;  // of copies that would make prompts faster; 0: the backend has no use for any
  int32_t vocab_size = 0;
  KvLayout kv;
  int64_t model_context = 0;  // trained
  int64_t max_seq_len = 0;    // asked for; 0: the model's
  int32_t max_batch_size = 0;
  int32_t max_step_tokens = 0;
};

/// How the memory of an engine is divided; decided once, at load.
struct MemoryPlan {
  uint64_t budget_bytes = 0;
  uint64_t weight_bytes = 0;
  uint64_t workspace_bytes = 0;
  uint64_t logits_bytes = 0;
  uint64_t kv_bytes = 0;
  uint64_t prefill_copy_bytes = 0;  // 0: none are kept
  int64_t num_blocks = 0;
  int64_t max_seq_len = 0;
  int32_t max_batch_size = 0;
  int32_t max_step_tokens = 0;
  int32_t max_logit_rows = 0;  // rows of logits of one step
  std::string budget_origin;   // where the budget comes from, in words
  std::string reduction;       // why max_seq_len is less than asked for; "" where it is not
  std::string no_copies;       // why copies that the backend could use are not kept; "" where they are

  uint64_t total_bytes() const { return weight_bytes + workspace_bytes + logits_bytes + kv_bytes + prefill_copy_bytes; }
  /// The plan as lines of a table, for logs and `imp explain`.
  std::string table() const;
};

/// Weights, workspace and logits come first; the KV cache gets what max_batch_size sequences of full length need, or
/// what is left. A context that does not fit is reduced; where not even a short one fits: out_of_memory, with the
/// smallest budget that would do. A device gives no more than what is free, whatever the budget says. Copies of weights
/// come last, from what nobody else wants: within a budget that was asked for, else from what is free, an eighth of the
/// device left alone; of at most a quarter of the device, and only where no context had to be reduced.
MemoryPlan plan_memory(const MemoryQuery& query);

KvLayout kv_layout(const ModelSpec& spec);

}  // namespace imp
