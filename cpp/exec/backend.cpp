#include "exec/backend.h"

namespace imp {

std::string_view memory_tag_name(MemoryTag tag) {
  switch (tag) {
    case MemoryTag::weights: return "weights";
    case MemoryTag::bf16_prefill_copies: return "bf16_prefill_copies";
    case MemoryTag::fp8_prefill_cache: return "fp8_prefill_cache";
    case MemoryTag::kv_pool: return "kv_pool";
    case MemoryTag::workspace: return "workspace";
    case MemoryTag::attn_scores: return "attn_scores";
    case MemoryTag::logits: return "logits";
    case MemoryTag::other: return "other";
  }
  return "?";
}

}  // namespace imp
