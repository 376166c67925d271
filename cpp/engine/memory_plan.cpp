#include "engine/memory_plan.h"

#include <algorithm>

#include "core/error.h"

namespace imp {
namespace {

constexpr int64_t kShortestContext = 128;             // tokens; below it an engine is of no use
constexpr uint64_t kLogitsBytesWanted = 64ull << 20;  // rows beyond max_batch_size only speed up prompt logprobs

int32_t logit_rows(const MemoryQuery& query) {
  const uint64_t row_bytes = static_cast<uint64_t>(query.vocab_size) * sizeof(float);
  const auto rows = static_cast<int32_t>(std::min<uint64_t>(kLogitsBytesWanted / row_bytes, 512));
  return std::clamp(rows, query.max_batch_size, std::max(query.max_batch_size, query.max_step_tokens));
}

/// Why copies of that many bytes are not kept beside what the plan has already; "" where they are.
std::string reject_copies(const MemoryQuery& query, const MemoryPlan& plan) {
  const uint64_t copies = query.prefill_copy_bytes, total = query.device_total_bytes;
  if (!plan.reduction.empty()) return "memory is short: max_seq_len is reduced";
  if (copies > total / 4)
    return cat(format_bytes(copies), " are more than a quarter of the device's ", format_bytes(total));
  const uint64_t reserve = total / 8;
  const uint64_t unreserved = query.device_free_bytes > reserve ? query.device_free_bytes - reserve : 0;
  const uint64_t limit = query.budget_bytes ? std::min(query.budget_bytes, query.device_free_bytes) : unreserved;
  const uint64_t left = limit > plan.total_bytes() ? limit - plan.total_bytes() : 0;
  if (copies > left) return cat(format_bytes(copies), " are wanted, and ", format_bytes(left), " are left");
  return {};
}

void settle_budget(const MemoryQuery& query, MemoryPlan& plan) {
  const uint64_t asked = query.budget_bytes, free = query.device_free_bytes;
  if (asked == 0) {
    plan.budget_bytes = free / 4 * 3;
    plan.budget_origin = cat("3/4 of the free ", format_bytes(free));
  } else if (asked <= free || query.can_exceed_free) {
    plan.budget_bytes = asked;
    plan.budget_origin = "asked for";
  } else {
    plan.budget_bytes = free;
    plan.budget_origin = cat("all that is free; ", format_bytes(asked), " were asked for");
  }
}

/// `plan` is without its KV cache, of which there is no room for `kv_tokens`.
[[noreturn]] void refuse(const MemoryQuery& query, const MemoryPlan& plan, uint64_t kv_tokens) {
  const uint64_t kv_bytes = kv_tokens / kKvBlockSize * query.kv.block_bytes();
  const uint64_t needed = plan.total_bytes() + kv_bytes;
  const bool is_there = needed <= query.device_free_bytes;
  fail(ErrorCode::out_of_memory, "the model does not fit: weights ", format_bytes(plan.weight_bytes), ", workspace ",
       format_bytes(plan.workspace_bytes), ", logits ", format_bytes(plan.logits_bytes), " and a KV cache of ",
       kv_tokens, " tokens (", format_bytes(kv_bytes), ") need a budget of ", format_bytes_up(needed), ", found ",
       format_bytes(plan.budget_bytes), " (", plan.budget_origin, "); ",
       is_there ? cat("set the memory budget to ", format_bytes_up(needed), " or more")
                : cat("free memory (", format_bytes(query.device_free_bytes),
                      " are free), or take a smaller model or quantization"));
}

}  // namespace

KvLayout kv_layout(const ModelSpec& spec) {
  KvLayout layout;
  for (const LayerSpec& layer : spec.layers)
    layout.layers.push_back({layer.attention.num_kv_heads, layer.attention.head_dim});
  return layout;
}

MemoryPlan plan_memory(const MemoryQuery& query) {
  MemoryPlan plan;
  settle_budget(query, plan);
  plan.weight_bytes = query.weight_bytes;
  plan.workspace_bytes = query.workspace_bytes;
  plan.max_batch_size = query.max_batch_size;
  plan.max_step_tokens = query.max_step_tokens;
  plan.max_logit_rows = logit_rows(query);
  plan.logits_bytes = static_cast<uint64_t>(plan.max_logit_rows) * static_cast<uint64_t>(query.vocab_size) * 4;

  const uint64_t block_bytes = query.kv.block_bytes();
  const uint64_t fixed = plan.total_bytes();
  const uint64_t left = plan.budget_bytes > fixed ? plan.budget_bytes - fixed : 0;
  const auto affordable = static_cast<int64_t>(left / block_bytes);
  const int64_t wanted = query.max_seq_len > 0 ? query.max_seq_len : query.model_context;
  const int64_t shortest = blocks_for(std::min(wanted, kShortestContext));
  if (affordable < shortest) refuse(query, plan, static_cast<uint64_t>(shortest * kKvBlockSize));
  plan.max_seq_len = std::min(wanted, affordable * kKvBlockSize);
  if (plan.max_seq_len < wanted) {
    plan.reduction =
        cat("the KV cache of ", format_bytes(left), " that the budget of ", format_bytes(plan.budget_bytes),
            " leaves holds ", plan.max_seq_len, " of ", wanted, " tokens");
  }
  plan.num_blocks = std::min(affordable, blocks_for(plan.max_seq_len) * plan.max_batch_size);
  plan.kv_bytes = static_cast<uint64_t>(plan.num_blocks) * block_bytes;
  if (query.prefill_copy_bytes > 0) {
    plan.no_copies = reject_copies(query, plan);
    if (plan.no_copies.empty()) plan.prefill_copy_bytes = query.prefill_copy_bytes;
  }
  return plan;
}

std::string MemoryPlan::table() const {
  std::string text;
  const auto line = [&](std::string_view name, uint64_t bytes, const std::string& note) {
    std::string row = cat("  ", name);
    row.resize(14, ' ');
    std::string amount = format_bytes(bytes);
    row += std::string(amount.size() < 11 ? 11 - amount.size() : 0, ' ') + amount;
    text += cat(row, note.empty() ? "" : "  ", note, "\n");
  };
  line("weights", weight_bytes, "");
  line("workspace", workspace_bytes, cat(max_step_tokens, " tokens a step"));
  line("logits", logits_bytes, cat(max_logit_rows, " rows"));
  line("kv_pool", kv_bytes,
       cat(num_blocks, " blocks of ", kKvBlockSize, " tokens, ", max_batch_size, " sequences of up to ", max_seq_len,
           " tokens"));
  if (prefill_copy_bytes > 0) line("copies", prefill_copy_bytes, "the layers' weights as bf16, for prompts");
  line("total", total_bytes(), "");
  line("budget", budget_bytes, budget_origin);
  if (!reduction.empty()) text += cat("  max_seq_len reduced: ", reduction, "\n");
  if (!no_copies.empty()) text += cat("  no bf16 copies of weights for prompts: ", no_copies, "\n");
  return text;
}

}  // namespace imp
