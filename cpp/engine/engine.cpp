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

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return to > from ? std::chrono::duration<double>(to - from).count() : 0;
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
      runner(model),
      observers(config.settings(), model.spec, *model.backend),
      seed_source(std::random_device{}()) {
  if (config.settings().runtime.warmup) warm_up();
  model.decoder->set_observer(observers.observer());  // dumps begin with the first request
}

Engine::Engine(const EngineOptions& options, Config config)
    : state_(std::make_unique<State>(options, std::move(config))) {}

Engine::~Engine() { print_final_tables(*state_); }

/// One prefill and one decode step: pages are read, workers started, kernels chosen. Nothing of it is kept but the
/// counters of the report.
void Engine::State::warm_up() {
  const std::vector<TokenId> tokens(static_cast<size_t>(std::min<int64_t>(8, model.memory.max_seq_len - 1)), 0);
  ScratchSequence sequence(*this, static_cast<int64_t>(tokens.size()) + 1);
  sequence.run(tokens, 1);
  sequence.run(std::span(tokens).first(1), 1);
}

RequestId Engine::submit(std::vector<TokenId> prompt, const SamplingParams& params, LogitsMask mask) {
  State& s = *state_;
  params.validate(s.model.spec.vocab_size);
  const Tokenizer* tokenizer = s.vocab.tokenizer;
  if (s.settings().generation.force_bos && tokenizer && tokenizer->special().bos) {
    const TokenId bos = *tokenizer->special().bos;
    if (prompt.empty() || prompt.front() != bos) prompt.insert(prompt.begin(), bos);
  }
  check_prompt(prompt);
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

void Engine::check_prompt(std::span<const TokenId> prompt) const {
  const State& s = *state_;
  if (prompt.empty()) fail(ErrorCode::invalid_argument, "the prompt has no tokens; give at least one");
  const int64_t limit = s.model.memory.max_seq_len;
  if (static_cast<int64_t>(prompt.size()) >= limit)
    fail(ErrorCode::invalid_argument, "the prompt has ", prompt.size(), " tokens, but max_seq_len is ", limit,
         " and one more must fit; shorten the prompt or raise runtime.max_seq_len (the model's context is ",
         s.model.spec.context_length, ")");
  const auto bad = std::ranges::find_if(prompt, [&](TokenId id) { return id < 0 || id >= s.model.spec.vocab_size; });
  if (bad != prompt.end())
    fail(ErrorCode::invalid_argument, "token id ", *bad, " at position ", bad - prompt.begin(),
         " of the prompt is outside the vocabulary of ", s.model.spec.vocab_size);
}

std::vector<TokenEvent> Engine::step() {
  State& s = *state_;
  std::vector<TokenEvent> events;
  s.end_cancelled(events);
  const StepPlan plan = s.scheduler.plan();
  if (plan.chunks.empty()) return events;
  std::span<float> rows = s.run_plan(plan);
  s.scheduler.commit(plan);

  const auto vocab_size = static_cast<size_t>(s.model.spec.vocab_size);
  for (const PlannedChunk& chunk : plan.chunks) {
    const auto count = static_cast<size_t>(s.logit_rows_of(chunk)) * vocab_size;
    const std::span<float> own = rows.first(count);
    rows = rows.subspan(count);
    s.record_prompt_logprobs(chunk, own);
    if (chunk.completes) s.sample(chunk, own.last(vocab_size), events);
  }
  return events;
}

std::span<float> Engine::State::run_plan(const StepPlan& plan) {
  std::vector<RunChunk> chunks;
  const Clock::time_point now = Clock::now();
  for (const PlannedChunk& planned : plan.chunks) {
    const Sequence& sequence = scheduler.sequence(planned.sequence);
    Request& request = request_of(planned.sequence);
    if (request.started == Clock::time_point{}) request.started = now;
    const std::span<const int32_t> tokens = sequence.tokens;
    chunks.push_back(
        {.tokens = tokens.subspan(static_cast<size_t>(planned.begin), static_cast<size_t>(planned.num_tokens)),
         .begin = planned.begin,
         .blocks = sequence.blocks,
         .num_logit_rows = logit_rows_of(planned)});
  }
  return forward(chunks, plan.copies);
}

std::span<float> Engine::State::forward(std::span<const RunChunk> chunks, std::span<const BlockCopy> copies) {
  const Clock::time_point start = Clock::now();
  const std::span<float> rows = runner.run(chunks, copies);
  totals.forward_seconds += seconds_between(start, Clock::now());
  totals.forward_batches += 1;
  for (const RunChunk& chunk : chunks) totals.forward_tokens += static_cast<int64_t>(chunk.tokens.size());
  return rows;
}

/// All rows while prompt logprobs are collected, else the one that gives the next token.
int32_t Engine::State::logit_rows_of(const PlannedChunk& chunk) {
  const Request& request = request_of(chunk.sequence);
  const bool wants_all =
      request.params->prompt_logprobs >= 0 && chunk.sequence == request.id && chunk.begin < request.prompt_tokens;
  if (wants_all) return chunk.num_tokens;
  return chunk.completes ? 1 : 0;
}

/// Row r of the chunk predicts the token at position begin + r + 1. A preempted prompt comes by twice.
void Engine::State::record_prompt_logprobs(const PlannedChunk& chunk, std::span<const float> rows) {
  Request& request = request_of(chunk.sequence);
  if (request.params->prompt_logprobs < 0 || chunk.sequence != request.id) return;
  const std::vector<int32_t>& tokens = scheduler.sequence(chunk.sequence).tokens;
  const auto vocab_size = static_cast<size_t>(model.spec.vocab_size);
  for (int32_t r = 0; r < chunk.num_tokens; ++r) {
    const int64_t position = chunk.begin + r + 1;
    if (position >= request.prompt_tokens) return;
    if (position != static_cast<int64_t>(request.prompt_logprobs.size())) continue;
    request.prompt_logprobs.push_back(row_logprobs(rows.subspan(static_cast<size_t>(r) * vocab_size, vocab_size),
                                                   tokens[static_cast<size_t>(position)],
                                                   request.params->prompt_logprobs));
  }
}

/// Draws the next token of the chunk's sequence; at the end of a prompt, one for each of the request's n sequences.
void Engine::State::sample(const PlannedChunk& chunk, std::span<float> row, std::vector<TokenEvent>& events) {
  Request& request = request_of(chunk.sequence);
  if (request.generated_tokens == 0) request.first_token = Clock::now();
  const auto index = static_cast<int32_t>(chunk.sequence - request.id);
  const int32_t n = request.params->n;
  if (index != 0 || request.forked || n == 1) return sample_one(request, index, row, events);

  request.forked = true;
  for (int32_t i = 1; i < n; ++i) scheduler.fork(request.id, request.id + i);
  const std::vector<float> logits(row.begin(), row.end());
  for (int32_t i = 0; i < n; ++i) {
    std::copy(logits.begin(), logits.end(), row.begin());  // drawing overwrites it
    sample_one(request, i, row, events);
  }
}

void Engine::State::sample_one(Request& request, int32_t index, std::span<float> row, std::vector<TokenEvent>& events) {
  const SequenceId id = request.id + index;
  const int64_t room = model.memory.max_seq_len - static_cast<int64_t>(scheduler.sequence(id).tokens.size());
  TokenEvent event = request.generations[static_cast<size_t>(index)].next(row, room);
  event.request = request.id;
  event.index = index;
  for (TokenId token : event.tokens) scheduler.append(id, token);
  request.generated_tokens += static_cast<int64_t>(event.tokens.size());
  totals.generated_tokens += static_cast<int64_t>(event.tokens.size());
  if (event.finish != FinishReason::none) end_sequence(request, index);
  events.push_back(std::move(event));
}

void Engine::State::end_sequence(Request& request, int32_t index) {
  scheduler.remove(request.id + index);
  request.finished[static_cast<size_t>(index)] = true;
  request.ended = Clock::now();
}

void Engine::State::end_cancelled(std::vector<TokenEvent>& events) {
  std::vector<RequestId> ids;
  {
    const std::lock_guard lock(cancel_mutex);
    ids.swap(cancelled);
  }
  for (RequestId id : ids) {
    const auto found = requests.find(id);
    if (found == requests.end()) continue;
    Request& request = found->second;
    for (int32_t i = 0; i < request.params->n; ++i) {
      if (request.finished[static_cast<size_t>(i)]) continue;
      end_sequence(request, i);
      TokenEvent event;
      event.request = id;
      event.index = i;
      event.finish = FinishReason::cancelled;
      events.push_back(std::move(event));
    }
  }
}

bool Engine::has_work() const { return !state_->scheduler.empty(); }

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
