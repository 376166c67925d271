#include "engine/report.h"

#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <set>

#include "core/json.h"
#include "engine/kernel_choice.h"
#include "engine/state.h"

namespace imp {
namespace {

void write_model(JsonWriter& json, const Engine::State& state) {
  const LoadedModel& model = state.model;
  int64_t parameters = 0;
  for (const TensorInfo& tensor : model.file->tensors()) parameters += tensor.num_elements();
  json.key("model").begin_object();
  json.field("path", model.file->path()).field("file_format", model.file->format_name());
  json.field("file_bytes", model.file->file_bytes()).field("architecture", model.spec.architecture);
  json.field("name", model.spec.name).field("num_parameters", parameters);
  json.field("weight_bytes", model.memory.weight_bytes).field("num_layers", model.spec.num_layers);
  json.field("hidden_size", model.spec.hidden_size).field("vocab_size", model.spec.vocab_size);
  json.field("context_length", model.spec.context_length).key("tokenizer");
  model.tokenizer ? json.value(model.tokenizer->model_name()) : json.null();
  json.end_object();

  json.key("device").begin_object();
  json.field("backend", model.backend->name()).field("name", model.backend->device_name());
  json.field("chosen", model.device_line).field("total_bytes", model.backend->total_memory_bytes()).key("failure");
  state.device.failure() ? json.value(state.device.failure()->what()) : json.null();
  json.end_object();
}

void write_config(JsonWriter& json, const Config& config) {
  json.key("config").begin_object().key("effective").raw(config.to_json()).field("file", config.file());
  json.key("warnings").begin_array();
  for (const std::string& warning : config.warnings()) json.value(warning);
  json.end_array().end_object();
}

void write_dispatch(JsonWriter& json, const Engine::State& state) {
  const LoadedModel& model = state.model;
  const Settings& settings = state.settings();
  const AttentionSpec& attention = model.spec.layers.front().attention;
  const auto context = static_cast<int>(std::min<int64_t>(model.memory.max_seq_len, 1024));
  const auto attention_kernel = [&](int query_len) {
    return chosen(model.backend->explain_attention(attention_query(attention, query_len, query_len, context)));
  };
  json.key("dispatch").begin_object().key("resolved").begin_object();
  json.field("kv_dtype", "fp16").field("deterministic", settings.runtime.deterministic);
  json.field("deterministic_gemm", settings.runtime.deterministic_gemm);
  const GraphStats graphs = model.backend->graph_stats();
  json.field("cuda_graphs", graphs.mode).field("cuda_graphs_reason", graphs.reason);
  json.field("attention_decode", attention_kernel(1))
      .field("attention_prefill", attention_kernel(std::min(context, 512)));
  json.field("prefix_cache", false).field("prefix_cache_reason", "not implemented yet");
  json.field("max_step_tokens", model.memory.max_step_tokens).field("max_seq_len", model.memory.max_seq_len);
  json.field("max_batch_size", model.memory.max_batch_size);
  json.key("exit_layer").value(settings.diagnostics.exit_layer);
  json.key("without_effect").begin_array();
  for (const std::string& text : state.inert) json.value(text);
  json.end_array().end_object().end_object();
}

/// For each op class and format the kernel of decode, of a full decode batch, and of a whole prefill step.
void write_gemm(JsonWriter& json, const LoadedModel& model) {
  json.key("gemm").begin_object();
  for (const LinearClass& linear : linear_classes(model)) {
    json.key(cat(linear_role_name(linear.role), ",", info(linear.format).name, ",", linear.n, "x", linear.k));
    json.begin_object();
    for (const int64_t m : std::set<int64_t>{1, model.memory.max_batch_size, model.memory.max_step_tokens}) {
      const LinearQuery query{linear.role, linear.format, m, linear.n, linear.k};
      json.field(cat("m=", m), chosen(model.backend->explain_linear(query)));
    }
    json.end_object();
  }
  json.end_object();
}

void write_memory(JsonWriter& json, const LoadedModel& model) {
  json.key("mem").begin_object();
  uint64_t total = 0;
  for (const auto& [tag, bytes] : model.backend->memory_by_tag()) {
    json.field(memory_tag_name(tag), bytes);
    total += bytes;
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  json.field("total", total).field("budget", model.memory.budget_bytes);
  json.field("process_peak", static_cast<uint64_t>(usage.ru_maxrss) * 1024).end_object();
}

void write_serving(JsonWriter& json, const Engine::State& state) {
  const GraphStats graphs = state.model.backend->graph_stats();
  json.key("graphs").begin_object().field("captures", graphs.captures).field("replays", graphs.replays);
  json.field("eager_steps", state.totals.forward_batches - graphs.replays - graphs.prefill_replays);
  json.field("prefill_captures", graphs.prefill_captures).field("prefill_replays", graphs.prefill_replays);
  json.field("mode", graphs.mode).field("reason", graphs.reason).field("capture_mode", graphs.capture_mode);
  json.key("refusals").begin_array();
  for (const std::string& refusal : graphs.refusals) json.value(refusal);
  json.end_array().field("pdl_launches", graphs.pdl_launches).end_object();

  json.key("kv").begin_object().field("block_size", kKvBlockSize).field("blocks_total", state.pool.num_blocks());
  json.field("blocks_free", state.pool.num_free()).field("blocks_used", state.pool.num_used());
  json.field("blocks_peak", state.pool.peak_used()).field("pinned", 0).field("cached", 0);
  json.field("prefix_hits", 0).field("prefix_misses", 0).field("prefix_tokens_reused", 0).end_object();

  const SchedulerStats& stats = state.scheduler.stats();
  json.key("scheduler").begin_object().field("steps", stats.steps).field("max_running", stats.max_running);
  json.field("running", state.scheduler.num_running()).field("waiting", state.scheduler.num_waiting());
  json.field("preemptions", stats.preemptions).field("block_copies", stats.block_copies).end_object();

  json.key("moe").null().key("spec").null();
  json.key("absent").begin_object().field("moe", "the model has no experts");
  json.field("spec", "speculative decoding is not implemented yet").end_object();
}

void write_diagnostics(JsonWriter& json, const Engine::State& state) {
  const Settings::Diagnostics& settings = state.settings().diagnostics;
  json.key("diag").begin_object();
  state.observers.write_report(json);
  json.field("profile", settings.profile).field("dump_tokens", settings.dump_tokens).end_object();
}

/// What load_s is made of.
void write_load(JsonWriter& json, const LoadedModel& model) {
  const LoadTimes& times = model.times;
  json.key("load").begin_object().field("file_s", times.file).field("device_s", times.device);
  json.field("weights_s", times.weights).field("workspace_s", times.workspace);
  json.field("weight_bytes_per_s",
             times.weights > 0 ? static_cast<double>(tensor_bytes(*model.file)) / times.weights : 0);
  json.end_object();
}

void write_timings(JsonWriter& json, const Engine::State& state) {
  json.key("timings").begin_object().field("load_s", state.model.times.total);
  write_load(json, state.model);
  json.field("forward_s", state.totals.forward_seconds).field("forward_batches", state.totals.forward_batches);
  json.field("forward_tokens", state.totals.forward_tokens).field("requests", state.totals.requests);
  json.field("prompt_tokens", state.totals.prompt_tokens);
  json.field("generated_tokens", state.totals.generated_tokens).end_object();

  json.key("profile").begin_object();
  for (const auto& [op, profile] : state.model.backend->profile()) {
    json.key(op).begin_object().field("calls", profile.calls).field("seconds", profile.seconds);
    json.field("bytes", profile.bytes).field("flops", profile.flops);
    json.field("limit_s", profile.limit_seconds).key("of_limit");
    profile.limit_seconds > 0 && profile.seconds > 0 ? json.value(profile.limit_seconds / profile.seconds)
                                                     : json.null();
    json.end_object();
  }
  json.end_object();
}

/// Where tokens were drawn, and what kept the device from drawing them.
void write_sampling(JsonWriter& json, const Engine::State& state) {
  const EngineTotals& totals = state.totals;
  json.key("sampling").begin_object().field("where", state.sampling.on_device ? "device" : "host");
  json.field("reason", state.sampling.reason).field("look_ahead", state.sampling.look_ahead);
  json.field("device_draws", totals.device_draws).field("host_draws", totals.host_draws);
  json.key("host_requests").begin_object();
  for (const auto& [parameter, count] : totals.host_requests) json.field(parameter, count);
  json.end_object().field("steps_ahead", totals.steps_ahead);
  json.field("discarded_draws", totals.discarded_draws).end_object();
}

/// Where the time went: one line an op class, with the rates reached.
void print_profile(const Engine::State& state) {
  const auto profile = state.model.backend->profile();
  if (profile.empty()) return;
  std::fprintf(stderr, "imp: profile of %lld forward batches, %.3f s\n",
               static_cast<long long>(state.totals.forward_batches), state.totals.forward_seconds);
  std::fprintf(stderr, "imp: %-14s %10s %10s %8s %9s %9s %8s\n", "op", "calls", "ms", "share", "GB/s", "GFLOP/s",
               "of limit");
  double sum = 0;
  const auto share = [&](double seconds) {
    return state.totals.forward_seconds > 0 ? 100 * seconds / state.totals.forward_seconds : 0;
  };
  for (const auto& [op, figures] : profile) {
    sum += figures.seconds;
    const double per_second = figures.seconds > 0 ? 1e-9 / figures.seconds : 0;
    std::fprintf(stderr, "imp: %-14s %10lld %10.2f %7.1f%% %9.2f %9.2f", op.c_str(),
                 static_cast<long long>(figures.calls), figures.seconds * 1e3, share(figures.seconds),
                 figures.bytes * per_second, figures.flops * per_second);
    if (figures.limit_seconds > 0 && figures.seconds > 0)
      std::fprintf(stderr, " %7.1f%%", 100 * figures.limit_seconds / figures.seconds);
    std::fprintf(stderr, "\n");
  }
  std::fprintf(stderr, "imp: %-14s %10s %10.2f %7.1f%%\n", "sum", "", sum * 1e3, share(sum));
}

}  // namespace

std::string make_report(const Engine::State& state) {
  JsonWriter json;
  json.begin_object();
  write_model(json, state);
  write_config(json, state.config);
  write_dispatch(json, state);
  json.key("launches").begin_object();
  for (const auto& [name, count] : state.model.backend->launches()) json.field(name, count);
  json.end_object();
  write_gemm(json, state.model);
  write_memory(json, state.model);
  write_serving(json, state);
  write_sampling(json, state);
  write_diagnostics(json, state);
  write_timings(json, state);
  return json.end_object().text();
}

void print_final_tables(const Engine::State& state) {
  print_profile(state);
  if (const std::string table = state.observers.probe_table(); !table.empty())
    std::fprintf(stderr, "imp: %s", table.c_str());
}

}  // namespace imp
