#include "api/border.h"
#include "api/handles.h"

using namespace imp;
using namespace imp::capi;

namespace {

imp_context_params default_context_params() {
  return {.struct_size = sizeof(imp_context_params),
          .device = "auto",
          .num_threads = 0,
          .memory_budget_bytes = 0,
          .config = nullptr};
}

imp_generate_params default_generate_params() {
  const SamplingParams neutral;
  return {.struct_size = sizeof(imp_generate_params),
          .temperature = 0.7f,
          .top_p = 0.9f,
          .top_k = 40,
          .min_p = neutral.min_p,
          .typical_p = neutral.typical_p,
          .repetition_penalty = neutral.repetition_penalty,
          .frequency_penalty = neutral.frequency_penalty,
          .presence_penalty = neutral.presence_penalty,
          .repeat_last_n = neutral.penalty_last_n,
          .dry_multiplier = neutral.dry_multiplier,
          .dry_base = neutral.dry_base,
          .dry_allowed_length = neutral.dry_allowed_length,
          .dry_penalty_last_n = neutral.dry_penalty_last_n,
          .mirostat = neutral.mirostat,
          .mirostat_tau = neutral.mirostat_tau,
          .mirostat_eta = neutral.mirostat_eta,
          .seed = -1,
          .max_tokens = 256,
          .min_tokens = 0,
          .ignore_eos = 0,
          .stop = nullptr,
          .num_stop = 0,
          .add_special = 1,
          .parse_special = 1};
}

SamplingParams to_sampling(const imp_generate_params& from) {
  SamplingParams to;
  to.temperature = from.temperature;
  to.top_p = from.top_p;
  to.top_k = from.top_k;
  to.min_p = from.min_p;
  to.typical_p = from.typical_p;
  to.repetition_penalty = from.repetition_penalty;
  to.frequency_penalty = from.frequency_penalty;
  to.presence_penalty = from.presence_penalty;
  to.penalty_last_n = from.repeat_last_n;
  to.dry_multiplier = from.dry_multiplier;
  to.dry_base = from.dry_base;
  to.dry_allowed_length = from.dry_allowed_length;
  to.dry_penalty_last_n = from.dry_penalty_last_n;
  to.mirostat = from.mirostat;
  to.mirostat_tau = from.mirostat_tau;
  to.mirostat_eta = from.mirostat_eta;
  if (from.seed < -1) fail(ErrorCode::invalid_argument, "seed is ", from.seed, "; expected 0 or more, or -1");
  if (from.seed >= 0) to.seed = static_cast<uint64_t>(from.seed);
  to.max_tokens = from.max_tokens;
  to.min_tokens = from.min_tokens;
  to.ignore_eos = from.ignore_eos != 0;
  if (from.num_stop > 0) require(from.stop, "stop");
  for (size_t i = 0; i < from.num_stop; ++i) {
    require(from.stop[i], "stop[i]");
    to.stop.emplace_back(from.stop[i]);
  }
  return to;
}

LogitsMask mask_of(const imp_context& context) {
  if (!context.mask_fn) return {};
  return
      [fn = context.mask_fn, user = context.mask_user](std::span<const int32_t> generated, std::span<uint32_t> mask) {
        return fn(generated.data(), generated.size(), mask.data(), mask.size(), user) == 0;
      };
}

/// Ends whatever request is on its way, so that the next call starts clean, also after an error.
void end_request(imp_context& context, RequestId id) {
  context.engine->cancel(id);
  context.engine->step();
  context.engine->forget(id);
}

void close_sequence(imp_context& context) {
  if (context.open_request) end_request(context, *context.open_request);
  context.open_request.reset();
  context.drawn.clear();
}

std::vector<TokenId> encode_prompt(const imp_context& context, const char* prompt, const imp_generate_params& params) {
  const Tokenizer* tokenizer = context.engine->tokenizer();
  if (!tokenizer) fail(ErrorCode::unsupported, "the model has no tokenizer; use imp_prefill() with token ids");
  return tokenizer->encode(prompt,
                           {.add_special = params.add_special != 0, .parse_special = params.parse_special != 0});
}

[[noreturn]] void fail_as(const TokenEvent& event) { throw Error(event.error, event.error_message); }

/// One whole generation; `see(text)` gets it piece by piece and returns false to end it.
template <class See>
void generate(imp_context& context, const char* prompt, const imp_generate_params* caller_params, const See& see) {
  require(prompt, "prompt");
  const imp_generate_params params = read_params(caller_params, default_generate_params());
  close_sequence(context);
  context.cancel_wanted = false;
  const RequestId id =
      context.engine->submit(encode_prompt(context, prompt, params), to_sampling(params), mask_of(context));
  FinishReason finish = FinishReason::none;
  try {
    while (finish == FinishReason::none) {
      if (context.cancel_wanted) context.engine->cancel(id);
      for (const TokenEvent& event : context.engine->step()) {
        if (!event.text.empty() && !see(event.text)) context.cancel_wanted = true;
        if (event.finish == FinishReason::error) fail_as(event);
        finish = event.finish;
      }
    }
  } catch (...) {
    end_request(context, id);
    throw;
  }
  context.engine->forget(id);
  if (finish == FinishReason::cancelled || context.cancel_wanted)
    fail(ErrorCode::cancelled, "the generation was cancelled");
}

}  // namespace

imp_status imp_context_params_default(imp_context_params* params) {
  return guarded([&] { write_params(params, default_context_params()); });
}

imp_status imp_generate_params_default(imp_generate_params* params) {
  return guarded([&] { write_params(params, default_generate_params()); });
}

imp_status imp_context_create(const imp_model* model, const imp_context_params* caller_params, imp_context** context) {
  return guarded([&] {
    require(model, "model");
    require(context, "context");
    const imp_context_params params = read_params(caller_params, default_context_params());
    auto created = std::make_unique<imp_context>();
    created->engine =
        std::make_unique<Engine>(EngineOptions{.model_path = model->file->path(),
                                               .device = params.device ? params.device : "auto",
                                               .num_threads = params.num_threads,
                                               .memory_budget_bytes = params.memory_budget_bytes,
                                               .force_isa = {},
                                               .force_linear = {}},
                                 params.config ? params.config->config : Config::defaults_for_embedders());
    created->device_line = created->engine->device_line();
    *context = created.release();
  });
}

void imp_context_free(imp_context* context) { delete context; }

imp_status imp_context_reset(imp_context* context) {
  return guarded([&] {
    require(context, "context");
    context->engine->reset();
    context->open_request.reset();
    context->drawn.clear();
  });
}

int32_t imp_context_max_seq_len(const imp_context* context) { return context ? context->engine->max_seq_len() : 0; }
const char* imp_context_device(const imp_context* context) { return context ? context->device_line.c_str() : ""; }

imp_status imp_context_report_json(const imp_context* context, char* buffer, size_t size, size_t* length) {
  return guarded([&] {
    require(context, "context");
    copy_text(context->engine->report_json(), buffer, size, length);
  });
}

imp_status imp_context_explain_json(const imp_context* context, const int32_t* batch_sizes, size_t count, char* buffer,
                                    size_t size, size_t* length) {
  return guarded([&] {
    require(context, "context");
    if (count > 0) require(batch_sizes, "batch_sizes");
    copy_text(context->engine->explain_json({batch_sizes, batch_sizes + count}), buffer, size, length);
  });
}

imp_status imp_generate(imp_context* context, const char* prompt, const imp_generate_params* params, char* buffer,
                        size_t size, size_t* length) {
  return guarded([&] {
    require(context, "context");
    require(buffer, "buffer");
    std::string text;
    generate(*context, prompt, params, [&](const std::string& piece) {
      text += piece;
      return true;
    });
    copy_text(text, buffer, size, length);
  });
}

imp_status imp_generate_streaming(imp_context* context, const char* prompt, const imp_generate_params* params,
                                  imp_text_fn fn, void* user) {
  return guarded([&] {
    require(context, "context");
    if (!fn) fail(ErrorCode::invalid_argument, "fn is NULL");
    generate(*context, prompt, params,
             [&](const std::string& piece) { return fn(piece.c_str(), piece.size(), user) == 0; });
  });
}

void imp_cancel(imp_context* context) {
  if (context) context->cancel_wanted = true;
}

void imp_set_logits_mask_fn(imp_context* context, imp_logits_mask_fn fn, void* user) {
  if (!context) return;
  context->mask_fn = fn;
  context->mask_user = user;
}

imp_status imp_prefill(imp_context* context, const int32_t* tokens, size_t count,
                       const imp_generate_params* caller_params) {
  return guarded([&] {
    require(context, "context");
    require(tokens, "tokens");
    const imp_generate_params params = read_params(caller_params, default_generate_params());
    close_sequence(*context);
    context->cancel_wanted = false;
    context->open_request = context->engine->submit({tokens, tokens + count}, to_sampling(params), mask_of(*context));
    while (context->drawn.empty()) {
      if (context->cancel_wanted) {
        close_sequence(*context);
        fail(ErrorCode::cancelled, "the prefill was cancelled");
      }
      for (TokenEvent& event : context->engine->step()) context->drawn.push_back(std::move(event));
    }
  });
}

imp_status imp_decode_step(imp_context* context, int32_t* token, imp_finish_reason* finish) {
  return guarded([&] {
    require(context, "context");
    require(token, "token");
    if (!context->open_request)
      fail(ErrorCode::invalid_argument, "there is no sequence to go on with; call imp_prefill() first");
    while (context->drawn.empty())
      for (TokenEvent& event : context->engine->step()) context->drawn.push_back(std::move(event));
    const TokenEvent event = std::move(context->drawn.front());
    context->drawn.pop_front();
    if (event.finish != FinishReason::none) {
      context->engine->forget(*context->open_request);
      context->open_request.reset();
    }
    if (event.finish == FinishReason::error) fail_as(event);
    *token = event.tokens.empty() ? -1 : event.tokens.front();
    if (finish) *finish = static_cast<imp_finish_reason>(event.finish);
  });
}

imp_status imp_get_logits(imp_context* context, const int32_t* tokens, size_t count, float* logits, size_t num_logits) {
  return guarded([&] {
    require(context, "context");
    require(tokens, "tokens");
    require(logits, "logits");
    const auto vocab_size = static_cast<size_t>(context->engine->vocab_size());
    if (num_logits != vocab_size)
      fail(ErrorCode::invalid_argument, "room for ", num_logits, " logits; exactly ", vocab_size, " are written");
    const std::vector<float> row = context->engine->logits({tokens, count}, false);
    std::copy(row.begin(), row.end(), logits);
  });
}

imp_status imp_perplexity(imp_context* context, const int32_t* tokens, size_t count, int32_t window, double* perplexity,
                          double* standard_error) {
  return guarded([&] {
    require(context, "context");
    require(tokens, "tokens");
    require(perplexity, "perplexity");
    context->cancel_wanted = false;
    const auto go_on = [&](int64_t, int64_t, double) { return !context->cancel_wanted.load(); };
    const Engine::Perplexity result = context->engine->perplexity({tokens, count}, window, go_on);
    *perplexity = result.value;
    if (standard_error) *standard_error = result.stderr_;
  });
}
