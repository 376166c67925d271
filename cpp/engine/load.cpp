#include "engine/load.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <optional>
#include <utility>

#include "core/log.h"
#include "engine/draw_states.h"
#include "engine/think_budget.h"
#include "exec/load_weights.h"
#include "formats/quoted.h"
#include "model/arch.h"

namespace imp {
namespace {

class Stopwatch {
 public:
  /// Seconds since the lap before, or the beginning.
  double lap() {
    const Clock::time_point before = std::exchange(last_, Clock::now());
    return seconds(before, last_);
  }
  double total() const { return seconds(begin_, last_); }

 private:
  using Clock = std::chrono::steady_clock;
  static double seconds(Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double>(to - from).count();
  }
  Clock::time_point begin_ = Clock::now(), last_ = begin_;
};

void choose_device(const EngineOptions& options, const Settings& settings, LoadedModel& model) {
  const BackendOptions backend{.settings = &settings,
                               .num_threads = options.num_threads,
                               .force_isa = options.force_isa,
                               .force_linear = options.force_linear};
  std::string reason = "asked for";
  const std::optional<int> named = cuda_device_of(options.device);
  if (named || options.device == "auto") {
    const std::string why_not = named ? "" : why_no_cuda();
    if (why_not.empty()) {
      model.backend = make_cuda_backend(backend, named.value_or(0));
      reason = options.device == "auto" ? "a CUDA device is there" : reason;
    } else {
      reason = why_not;
    }
  }
  if (!model.backend) model.backend = make_cpu_backend(backend);
  model.device_line =
      cat(model.backend->name(), ": ", model.backend->device_name(), "; device=", options.device, ": ", reason);
}

/// A setting whose mechanism this model does not have: legal, without effect, and said so once.
void note_inert(std::vector<std::string>& inert, std::string text) {
  log_warn(text);
  inert.push_back(std::move(text));
}

void settle_settings(const LoadedModel& model, Config& config, std::vector<std::string>& inert) {
  const Settings& settings = config.settings();
  const ModelSpec& spec = model.spec;
  if (settings.diagnostics.exit_layer >= spec.num_layers) {
    log_warn("diagnostics.exit_layer=", settings.diagnostics.exit_layer, ": the model has ", spec.num_layers,
             " layers; all of them run");
    config.set_automatic("diagnostics.exit_layer", int64_t{-1}, cat("the model has ", spec.num_layers, " layers"));
  }
  if (settings.generation.no_logit_softcap && spec.logit_softcap == 0)
    note_inert(inert, "generation.no_logit_softcap has no effect: the model does not cap its logits");
  if (settings.generation.force_bos && (!model.tokenizer || !model.tokenizer->special().bos))
    note_inert(inert, "generation.force_bos has no effect: the vocabulary has no BOS token");
  if (settings.generation.think_budget > 0 && (!model.tokenizer || !find_think_markers(*model.tokenizer)))
    note_inert(inert, "generation.think_budget has no effect: the vocabulary has no <think> and </think>");
  const auto is_q8_0 = [](const LayerWeights& layer) { return layer.down_proj.format == WeightFormat::q8_0; };
  if (settings.ffn.sparsity_threshold > 0 && std::ranges::none_of(model.weights.layers, is_q8_0))
    note_inert(inert, "ffn.sparsity_threshold has no effect: no down_proj is Q8_0");
  for (std::string& sentence : model.backend->without_effect(settings)) note_inert(inert, std::move(sentence));
}

/// What the weights will take on the device; a backend may hold them in another form than the file.
uint64_t prepared_bytes(const LoadedModel& model) {
  uint64_t bytes = 0;
  for (const TensorInfo& tensor : model.file->tensors()) bytes += model.backend->prepared_bytes(tensor);
  return bytes;
}

/// The activations of a step, and what the backend takes besides.
uint64_t step_bytes(const LoadedModel& model, int32_t max_tokens, int32_t max_sequences) {
  const StepLimits limits{.max_tokens = max_tokens,
                          .max_sequences = max_sequences,
                          .max_logit_rows = std::max(max_tokens, max_sequences),  // the plan may take fewer
                          .vocab_size = model.spec.vocab_size};
  const uint64_t draws = model.backend->draws_tokens() ? DrawStates::bytes(max_sequences, model.spec.vocab_size) : 0;
  return Decoder::workspace_bytes(model.spec, max_tokens) + model.backend->workspace_bytes(limits, model.spec) + draws;
}

MemoryPlan settle_memory(const EngineOptions& options, const LoadedModel& model, Config& config) {
  const auto& runtime = config.settings().runtime;
  const int32_t step_tokens = model.backend->preferred_step_tokens();
  const auto batch_size = static_cast<int32_t>(runtime.max_batch_size);
  const MemoryPlan plan = plan_memory({.device_free_bytes = model.backend->free_memory_bytes(),
                                       .device_total_bytes = model.backend->total_memory_bytes(),
                                       .can_exceed_free = model.backend->memory_is_host(),
                                       .budget_bytes = options.memory_budget_bytes,
                                       .weight_bytes = prepared_bytes(model),
                                       .workspace_bytes = step_bytes(model, step_tokens, batch_size),
                                       .prefill_copy_bytes = model.backend->prefill_copy_bytes(model.tensors),
                                       .vocab_size = model.spec.vocab_size,
                                       .kv = kv_layout(model.spec),
                                       .model_context = model.spec.context_length,
                                       .max_seq_len = runtime.max_seq_len,
                                       .max_batch_size = batch_size,
                                       .max_step_tokens = step_tokens});
  if (runtime.max_seq_len > model.spec.context_length)
    log_warn("runtime.max_seq_len=", runtime.max_seq_len, " is above the ", model.spec.context_length,
             " tokens the model was trained for; expect worse text past them");
  if (!plan.reduction.empty()) log_warn("runtime.max_seq_len is ", plan.max_seq_len, ": ", plan.reduction);
  if (plan.max_seq_len != runtime.max_seq_len)
    config.set_automatic("runtime.max_seq_len", plan.max_seq_len,
                         plan.reduction.empty() ? "the model's context" : plan.reduction);
  return plan;
}

void allocate_kv(LoadedModel& model) {
  const KvLayout layout = kv_layout(model.spec);
  for (int layer = 0; layer < model.spec.num_layers; ++layer) {
    const uint64_t bytes = layout.array_bytes(layer, model.memory.num_blocks);
    const KvLayerShape& shape = layout.layers[static_cast<size_t>(layer)];
    model.kv.push_back({.k = model.backend->allocate(bytes, MemoryTag::kv_pool),
                        .v = model.backend->allocate(bytes, MemoryTag::kv_pool),
                        .dtype = DType::f16,
                        .num_kv_heads = shape.num_kv_heads,
                        .head_dim = shape.head_dim,
                        .block_size = kKvBlockSize});
  }
}

}  // namespace

std::optional<int> cuda_device_of(std::string_view device) {
  if (device == "auto" || device == "cpu") return std::nullopt;
  if (device == "cuda") return 0;
  int index = -1;
  const std::string_view digits = device.starts_with("cuda:") ? device.substr(5) : std::string_view{};
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
  if (digits.empty() || error != std::errc{} || end != digits.data() + digits.size() || index < 0)
    fail(ErrorCode::invalid_argument, "device ", quoted(device), " is unknown; expected auto, cpu, cuda or cuda:N");
  return index;
}

uint64_t tensor_bytes(const ModelFile& file) {
  uint64_t bytes = 0;
  for (const TensorInfo& tensor : file.tensors()) bytes += tensor.data.size();
  return bytes;
}

LoadedModel load_model(const EngineOptions& options, Config& config, std::vector<std::string>& inert) {
  Stopwatch watch;
  LoadedModel model;
  model.file = open_model_file(options.model_path);
  model.spec = read_model_spec(*model.file);
  model.tensors = match_tensors(*model.file, model.spec);
  model.tokenizer = load_tokenizer(*model.file);
  model.times.file = watch.lap();
  choose_device(options, config.settings(), model);
  model.times.device = watch.lap();
  log_info("device ", model.device_line);
  model.backend->begin_load(model.spec);
  model.memory = settle_memory(options, model, config);  // before anything large is touched
  log_info("memory plan\n", model.memory.table());
  model.weights = load_weights(model.tensors, model.spec, *model.backend);
  model.times.weights = watch.lap();
  model.backend->finish_load({.max_tokens = model.memory.max_step_tokens,
                              .max_sequences = model.memory.max_batch_size,
                              .max_logit_rows = model.memory.max_logit_rows,
                              .vocab_size = model.spec.vocab_size,
                              .prefill_copies = model.memory.prefill_copy_bytes > 0});
  settle_settings(model, config, inert);
  allocate_kv(model);

  const Settings& settings = config.settings();
  model.decoder = std::make_unique<Decoder>(
      model.spec, model.weights, *model.backend, model.kv,
      DecoderOptions{.max_tokens = model.memory.max_step_tokens,
                     .exit_layer = static_cast<int>(settings.diagnostics.exit_layer),
                     .no_logit_softcap = settings.generation.no_logit_softcap,
                     .ffn_skip_threshold = static_cast<float>(settings.ffn.sparsity_threshold)});
  model.times.workspace = watch.lap();
  model.times.total = watch.total();
  return model;
}

}  // namespace imp
