#include <algorithm>

#include "core/json.h"
#include "engine/kernel_choice.h"
#include "engine/report.h"
#include "engine/state.h"

namespace imp {
namespace {

void write_verdicts(JsonWriter& json, const std::vector<Verdict>& verdicts) {
  json.key("chosen");
  const std::string_view name = chosen(verdicts);
  name.empty() ? json.null() : json.value(name);
  json.key("refused").begin_array();
  for (const Verdict& verdict : verdicts) {
    if (!verdict.reason) continue;
    json.begin_object().field("name", verdict.name).field("reason", verdict.reason).end_object();
  }
  json.end_array().key("not_needed").begin_array();  // could run; a better one was there
  for (const Verdict& verdict : verdicts)
    if (!verdict.reason && !verdict.chosen) json.value(verdict.name);
  json.end_array();
}

void write_spec(JsonWriter& json, const LoadedModel& model) {
  const ModelSpec& spec = model.spec;
  json.key("spec").begin_object();
  json.field("architecture", spec.architecture).field("name", spec.name).field("num_layers", spec.num_layers);
  json.field("hidden_size", spec.hidden_size).field("vocab_size", spec.vocab_size);
  json.field("context_length", spec.context_length).field("tied_lm_head", spec.tied_lm_head);
  json.field("logit_softcap", static_cast<double>(spec.logit_softcap));
  json.key("layers").begin_array();
  // Runs of equal layers are one entry: most models have one or two kinds.
  for (size_t begin = 0, end = 0; begin < spec.layers.size(); begin = end) {
    while (end < spec.layers.size() && spec.layers[end] == spec.layers[begin]) ++end;
    const LayerSpec& layer = spec.layers[begin];
    json.begin_object().field("first", begin).field("last", end - 1);
    json.field("num_heads", layer.attention.num_heads).field("num_kv_heads", layer.attention.num_kv_heads);
    json.field("head_dim", layer.attention.head_dim).field("sliding_window", layer.attention.sliding_window);
    json.field("rope_theta", static_cast<double>(layer.attention.rope.theta));
    json.field("intermediate_size", layer.ffn.intermediate_size).end_object();
  }
  json.end_array().end_object();
}

void write_memory_plan(JsonWriter& json, const MemoryPlan& plan) {
  json.key("memory_plan").begin_object();
  json.field("budget_bytes", plan.budget_bytes).field("weight_bytes", plan.weight_bytes);
  json.field("workspace_bytes", plan.workspace_bytes).field("logits_bytes", plan.logits_bytes);
  json.field("kv_bytes", plan.kv_bytes).field("prefill_copy_bytes", plan.prefill_copy_bytes);
  json.field("no_copies", plan.no_copies).field("total_bytes", plan.total_bytes());
  json.field("num_blocks", plan.num_blocks).field("block_size", kKvBlockSize);
  json.field("max_seq_len", plan.max_seq_len).field("max_batch_size", plan.max_batch_size);
  json.field("max_step_tokens", plan.max_step_tokens).field("reduction", plan.reduction);
  json.field("table", plan.table()).end_object();
}

/// Attention kinds of the model: its different AttentionSpecs, RoPE aside.
std::vector<AttentionSpec> attention_classes(const ModelSpec& spec) {
  std::vector<AttentionSpec> classes;
  for (const LayerSpec& layer : spec.layers) {
    AttentionSpec attention = layer.attention;
    attention.rope = {};
    if (std::ranges::find(classes, attention) == classes.end()) classes.push_back(attention);
  }
  return classes;
}

void write_linears(JsonWriter& json, const LoadedModel& model, const std::vector<int>& batch_sizes) {
  json.key("linear").begin_array();
  for (const LinearClass& linear : linear_classes(model)) {
    for (int m : batch_sizes) {
      json.begin_object().field("role", linear_role_name(linear.role)).field("format", info(linear.format).name);
      json.field("m", m).field("n", linear.n).field("k", linear.k).field("num_linears", linear.num_layers);
      write_verdicts(json, model.backend->explain_linear({linear.role, linear.format, m, linear.n, linear.k}));
      json.end_object();
    }
  }
  json.end_array();
}

void write_attention(JsonWriter& json, const LoadedModel& model, const std::vector<int>& batch_sizes) {
  const auto context = static_cast<int>(std::min<int64_t>(model.memory.max_seq_len, 1024));
  json.key("attention").begin_array();
  for (const AttentionSpec& attention : attention_classes(model.spec)) {
    for (int tokens : batch_sizes) {
      // A batch of m tokens is m decoding sequences, or one prompt of m.
      for (const int query_len : {1, tokens}) {
        json.begin_object().field("phase", query_len == 1 ? "decode" : "prefill").field("tokens", tokens);
        json.field("context", std::max(context, query_len)).field("sliding_window", attention.sliding_window);
        const AttentionQuery query = attention_query(attention, tokens, query_len, std::max(context, query_len));
        write_verdicts(json, model.backend->explain_attention(query));
        json.end_object();
        if (tokens == 1) break;  // both are the same
      }
    }
  }
  json.end_array();
}

}  // namespace

std::string make_explanation(const Engine::State& state, const std::vector<int>& batch_sizes) {
  for (int size : batch_sizes)
    if (size < 1) fail(ErrorCode::invalid_argument, "a batch of ", size, " tokens cannot be explained; give 1 or more");
  JsonWriter json;
  json.begin_object().field("model", state.options.model_path).field("device", state.model.device_line);
  write_spec(json, state.model);
  write_memory_plan(json, state.model.memory);
  write_linears(json, state.model, batch_sizes);
  write_attention(json, state.model, batch_sizes);
  const GraphStats graphs = state.model.backend->graph_stats();
  json.key("graphs").begin_object().field("mode", graphs.mode).field("reason", graphs.reason);
  json.field("capture_mode", graphs.capture_mode).field("early_launch", graphs.early_launch).end_object();
  json.key("without_effect").begin_array();
  for (const std::string& text : state.inert) json.value(text);
  return json.end_array().end_object().text();
}

}  // namespace imp
