#include "engine/engine.h"

#include <algorithm>
#include <cstdio>
#include <random>

#include "core/log.h"
#include "engine/logprobs.h"
#include "engine/report.h"
#include "engine/state.h"

namespace imp {
namespace {

Config resolved(Config config) {
  config.resolve();
  for (const std::string& warning : config.warnings()) log_warn(warning);
  return config;
}

/// diagnostics.dump_tokens: the first ids that will be prefilled, on stderr.
void dump_tokens(std::span<const TokenId> prompt) {
  constexpr size_t kShown = 20;
  std::string line = cat("imp: prefill tokens (", prompt.size(), "):");
  for (TokenId id : prompt.first(std::min(prompt.size(), kShown))) line += cat(" ", id);
  if (prompt.size() > kShown) line += cat(" ... ", prompt.size() - kShown, " more");
  std::fprintf(stderr, "%s\n", line.c_str());
}

}  // namespace

Engine::State::State(const EngineOptions& engine_options, Config settings)
    : options(engine_options),
      config(resolved(std::move(settings))),
      model(load_model(options, config, inert)),
      vocab(make_vocab_info(model.tokenizer.get(), model.spec.vocab_size, config.settings())),
      pool(model.memory.num_blocks),
      scheduler({.max_batch_size = model.memory.max_batch_size, .max_step_tokens = model.memory.max_step_tokens}, pool),
      sampling(choose_sampling(options, *model.backend)),
      draw_states(model, vocab, sampling.on_device),
      runner(model, draw_states),
      observers(config.settings(), model.spec, *model.backend),
      seed_source(std::random_device{}()) {
  if (config.settings().runtime.warmup) warm_up();
  model.decoder->set_observer(observers.observer());  // dumps begin with the first request
}

Engine::Engine(const EngineOptions& options, Config config)
    : state_(std::make_unique<State>(options, std::move(config))) {}

Engine::~Engine() { print_final_tables(*state_); }

/// One prefill and one decode step, or two where the second is recorded: pages are read, workers started, kernels
/// loaded and chosen. Nothing of it is kept but the counters of the report.
void Engine::State::warm_up() {
  const Backend& backend = *model.backend;
  // A GPU takes other kernels, and a library, for more than a few tokens.
  const int64_t wanted = backend.memory_is_host() ? 8 : 128,
                decode_steps = backend.graph_stats().mode == "never" ? 1 : 2;
  const int64_t room = model.memory.max_seq_len;
  const std::vector<TokenId> tokens(static_cast<size_t>(std::clamp<int64_t>(room - decode_steps, 1, wanted)), 0);
  const auto count = static_cast<int64_t>(tokens.size());
  ScratchSequence sequence(*this, std::min(room, count + decode_steps));
  sequence.run(tokens, 1, true);
  for (int64_t at = count; at < std::min(room, count + decode_steps); ++at)
    sequence.run(std::span(tokens).first(1), 1, true);
}

RequestId Engine::submit(std::vector<TokenId> prompt, const SamplingParams& params, LogitsMask mask) {
  State& s = *state_;
  s.device.check();
  params.validate(s.model.spec.vocab_size);
  const Tokenizer* tokenizer = s.vocab.tokenizer;
  if (s.settings().generation.force_bos && tokenizer && tokenizer->special().bos) {
    const TokenId bos = *tokenizer->special().bos;
    if (prompt.empty() || prompt.front() != bos) prompt.insert(prompt.begin(), bos);
  }
  check_prompt(prompt, 1);
  if (params.think_budget > 0 && !s.vocab.think)
    fail(ErrorCode::invalid_argument, "think_budget is ", params.think_budget, ", but the vocabulary of ",
         s.options.model_path, " has no <think> and </think>");
  if (!tokenizer && !params.stop.empty())
    fail(ErrorCode::invalid_argument, "stop strings need a tokenizer, and ", s.options.model_path, " has none");
  if (s.settings().diagnostics.dump_tokens) dump_tokens(prompt);

  Request request;
  request.id = s.next_id;
  request.params = std::make_shared<const SamplingParams>(params);
  request.prompt_tokens = static_cast<int64_t>(prompt.size());
  const uint64_t seed = params.seed ? *params.seed : std::mt19937_64(s.seed_source + uint64_t(s.next_id))();
  for (int32_t i = 0; i < params.n; ++i)
    request.generations.emplace_back(s.vocab, request.params, prompt, seed, i, mask);
  request.finished.assign(static_cast<size_t>(params.n), false);
  if (params.prompt_logprobs >= 0) request.prompt_logprobs.emplace_back();
  request.submitted = Clock::now();

  Sequence sequence;
  sequence.id = request.id;
  sequence.tokens = std::move(prompt);
  // Every position's logits are wanted: chunks that fit into the rows even if the whole batch asks for them.
  if (params.prompt_logprobs >= 0)
    sequence.max_chunk = std::max(1, s.model.memory.max_logit_rows / s.model.memory.max_batch_size);
  s.scheduler.add(std::move(sequence));
  s.totals.requests += 1;
  s.totals.prompt_tokens += request.prompt_tokens;
  s.next_id += params.n;
  const RequestId id = request.id;
  s.requests.emplace(id, std::move(request));
  return id;
}

void Engine::check_prompt(std::span<const TokenId> prompt, int64_t more) const {
  const State& s = *state_;
  if (prompt.empty()) fail(ErrorCode::invalid_argument, "the prompt has no tokens; give at least one");
  const int64_t limit = s.model.memory.max_seq_len;
  if (static_cast<int64_t>(prompt.size()) + more > limit)
    fail(ErrorCode::invalid_argument, "the prompt has ", prompt.size(), " tokens, but max_seq_len is ", limit,
         more > 0 ? " and one more must fit" : "",
         "; shorten the prompt or raise runtime.max_seq_len (the model's context is ", s.model.spec.context_length,
         ")");
  const auto bad = std::ranges::find_if(prompt, [&](TokenId id) { return id < 0 || id >= s.model.spec.vocab_size; });
  if (bad != prompt.end())
    fail(ErrorCode::invalid_argument, "token id ", *bad, " at position ", bad - prompt.begin(),
         " of the prompt is outside the vocabulary of ", s.model.spec.vocab_size);
}

bool Engine::has_work() const { return !state_->scheduler.empty() || state_->awaits_tokens(); }

void Engine::cancel(RequestId id) {
  const std::lock_guard lock(state_->cancel_mutex);
  state_->cancelled.push_back(id);
}

const Request& Engine::request(RequestId id) const {
  const auto found = state_->requests.find(id);
  if (found == state_->requests.end()) fail(ErrorCode::invalid_argument, "there is no request ", id);
  return found->second;
}

RequestTimings Engine::timings(RequestId id) const {
  const Request& of = request(id);
  const Clock::time_point now = of.is_done() ? of.ended : Clock::now();
  const auto reached = [&](Clock::time_point at) { return at == Clock::time_point{} ? now : at; };
  return {.queued_s = seconds_between(of.submitted, reached(of.started)),
          .prefill_s = seconds_between(reached(of.started), reached(of.first_token)),
          .decode_s = seconds_between(reached(of.first_token), now),
          .prompt_tokens = of.prompt_tokens,
          .generated_tokens = of.generated_tokens};
}

std::vector<std::vector<TokenLogprob>> Engine::prompt_logprobs(RequestId id) const {
  return request(id).prompt_logprobs;
}

void Engine::forget(RequestId id) {
  const auto found = state_->requests.find(id);
  if (found == state_->requests.end()) return;
  if (!found->second.is_done())
    fail(ErrorCode::invalid_argument, "request ", id, " still runs; cancel it and step() first");
  state_->requests.erase(found);
}

void Engine::reset() {
  State& s = *state_;
  if (s.pending && !s.device.failure()) s.device.run(*s.model.backend, [&] { s.runner.wait(s.pending->slot); });
  s.pending.reset();
  s.draw_states.clear();
  for (const auto& [id, request] : s.requests)
    for (int32_t i = 0; i < request.params->n; ++i) s.scheduler.remove(id + i);
  s.requests.clear();
  for (BlockId block : s.bench_blocks) s.pool.release(block);
  s.bench_blocks.clear();
  s.bench_tokens = 0;
}

const Tokenizer* Engine::tokenizer() const { return state_->model.tokenizer.get(); }
const Config& Engine::config() const { return state_->config; }
int32_t Engine::vocab_size() const { return state_->model.spec.vocab_size; }
int32_t Engine::max_seq_len() const { return static_cast<int32_t>(state_->model.memory.max_seq_len); }
std::string Engine::device() const { return std::string(state_->model.backend->name()); }
std::string Engine::device_line() const { return state_->model.device_line; }
std::string Engine::chat_template() const { return state_->model.file->get_string("tokenizer.chat_template", ""); }
std::string Engine::report_json() const { return make_report(*state_); }
std::string Engine::explain_json(const std::vector<int>& batch_sizes) const {
  return make_explanation(*state_, batch_sizes);
}

}  // namespace imp
