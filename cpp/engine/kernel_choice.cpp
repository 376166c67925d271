#include "engine/kernel_choice.h"

#include <algorithm>

namespace imp {

std::string_view linear_role_name(LinearRole role) {
  switch (role) {
    case LinearRole::qkv: return "qkv";
    case LinearRole::o: return "o";
    case LinearRole::gate_up: return "gate_up";
    case LinearRole::down: return "down";
    case LinearRole::lm_head: return "lm_head";
  }
  return "?";
}

std::vector<LinearClass> linear_classes(const LoadedModel& model) {
  std::vector<LinearClass> classes;
  const auto add = [&](LinearRole role, const WeightView& weight) {
    if (!weight) return;
    const auto same = std::ranges::find_if(classes, [&](const LinearClass& known) {
      return known.role == role && known.format == weight.format && known.n == weight.rows && known.k == weight.cols;
    });
    if (same != classes.end()) {
      ++same->num_layers;
    } else {
      classes.push_back({role, weight.format, weight.rows, weight.cols, 1});
    }
  };
  for (const LayerWeights& layer : model.weights.layers) {
    for (const WeightView* weight : {&layer.q_proj, &layer.k_proj, &layer.v_proj}) add(LinearRole::qkv, *weight);
    add(LinearRole::o, layer.o_proj);
    add(LinearRole::gate_up, layer.gate_proj);
    add(LinearRole::gate_up, layer.up_proj);
    add(LinearRole::down, layer.down_proj);
  }
  add(LinearRole::lm_head, model.weights.lm_head);
  return classes;
}

std::string_view chosen(const std::vector<Verdict>& verdicts) {
  for (const Verdict& verdict : verdicts)
    if (verdict.chosen) return verdict.name;
  return "";
}

AttentionQuery attention_query(const AttentionSpec& attention, int64_t tokens, int query_len, int context_len) {
  return {.tokens = tokens,
          .max_query_len = query_len,
          .max_context_len = context_len,
          .num_heads = attention.num_heads,
          .num_kv_heads = attention.num_kv_heads,
          .head_dim = attention.head_dim,
          .sliding_window = attention.sliding_window};
}

}  // namespace imp
