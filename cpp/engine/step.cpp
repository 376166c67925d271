#include <algorithm>

#include "engine/engine.h"
#include "engine/logprobs.h"
#include "engine/state.h"

// Engine::step(): plan, launch, collect. Where the backend draws the tokens, the next step is launched before the
// tokens of this one are looked at: their positions and blocks are known, and their ids are on the device already. A
// sequence that turns out to have ended ran one token too many, which nobody sees: its blocks may be used again at
// once, because the device takes the steps in order.

namespace imp {

SamplingMode choose_sampling(const EngineOptions& options, const Backend& backend) {
  const std::string& forced = options.force_sampling;
  if (forced == "host") return {false, false, "asked for"};
  if (forced == "device") return {true, false, "asked for"};
  if (forced == "ahead") return {true, true, "asked for"};
  if (!forced.empty())
    fail(ErrorCode::invalid_argument, "force_sampling \"", forced, "\" is unknown; expected host, device or ahead");
  if (backend.draws_tokens()) return {true, true, "logits stay on the device"};
  return {false, false,
          backend.memory_is_host() ? cat("the logits of ", backend.name(), " are in the host's memory")
                                   : cat("no kernel of ", backend.name(), " draws tokens on this device")};
}

std::vector<TokenEvent> Engine::step() {
  State& s = *state_;
  s.device.check();
  std::vector<TokenEvent> events;
  s.end_cancelled(events);
  if (!s.pending) s.pending = s.launch_next();
  if (!s.pending && events.empty() && !s.scheduler.empty())  // the plan of memory has room for any one request
    fail(ErrorCode::invalid_argument, "no request can run: ", s.bench_blocks.size(), " of ", s.pool.num_blocks(),
         " blocks of the KV cache are held by the bench; reset() gives them back");
  if (!s.pending) return events;
  std::optional<PendingStep> next;
  if (s.sampling.look_ahead && !s.pending->needs_host()) {
    next = s.launch_next();
    if (next) ++s.totals.steps_ahead;
  }
  s.collect(*s.pending, events);
  s.pending = std::move(next);
  return events;
}

/// Plans a step and launches it; nothing where nothing can run.
std::optional<PendingStep> Engine::State::launch_next() {
  const StepPlan plan = scheduler.plan();
  if (plan.chunks.empty()) return std::nullopt;
  PendingStep step{.slot = free_slot(), .chunks = {}, .started = Clock::now()};
  std::vector<RunChunk> chunks;
  std::vector<SampleRow> draws;
  for (SequenceId id : plan.preempted) draw_states.release(id);
  for (const PlannedChunk& planned : plan.chunks) {
    const Sequence& sequence = scheduler.sequence(planned.sequence);
    const PendingChunk& chunk = step.chunks.emplace_back(prepare(planned, step, draws));
    chunks.push_back(
        {.tokens = std::span<const int32_t>(sequence.tokens)
                       .subspan(static_cast<size_t>(planned.begin), static_cast<size_t>(planned.num_tokens)),
         .begin = planned.begin,
         .blocks = sequence.blocks,
         .num_logit_rows = chunk.num_rows});
  }
  launch(step.slot, chunks, plan.copies, draws);
  scheduler.commit(plan);
  for (PendingChunk& chunk : step.chunks) expect_token(chunk);
  return step;
}

/// Decides who draws the chunk's token.
PendingChunk Engine::State::prepare(const PlannedChunk& planned, PendingStep& step, std::vector<SampleRow>& draws) {
  Request& request = request_of(planned.sequence);
  if (request.started == Clock::time_point{}) request.started = step.started;
  const auto index = static_cast<int32_t>(planned.sequence - request.id);
  const int64_t first_row = step.chunks.empty() ? 0 : step.chunks.back().first_row + step.chunks.back().num_rows;
  PendingChunk chunk{.planned = planned,
                     .request = request.id,
                     .index = index,
                     .first_row = first_row,
                     .num_rows = logit_rows_of(planned)};
  if (chunk.num_rows == 0) return chunk;
  const bool forks = index == 0 && !request.forked && request.params->n > 1;  // n tokens from one row
  const std::string_view reason = request.generations[static_cast<size_t>(index)].host_reason();
  const bool host_draws = !sampling.on_device || forks || !reason.empty();
  if (planned.completes && !host_draws && !wants_prompt_logprobs(planned)) {
    chunk.draw = static_cast<int32_t>(draws.size());
    SampleRow& row = draws.emplace_back();
    row.logits_row = static_cast<int32_t>(first_row);
    draw_states.prepare(planned.sequence, request.generations[static_cast<size_t>(index)],
                        scheduler.sequence(planned.sequence).tokens, row);
    return chunk;
  }
  if (sampling.on_device && !reason.empty() && !std::exchange(request.counted_host_draws, true))
    ++totals.host_requests[std::string(reason)];
  if (!step.needs_host()) step.host_begin = first_row;
  step.host_end = first_row + chunk.num_rows;
  return chunk;
}

/// Makes room for the token that the device draws, so that the sequence can be planned without knowing it; or takes the
/// sequence out, where that token is its last for sure.
void Engine::State::expect_token(PendingChunk& chunk) {
  if (chunk.draw < 0) return;
  const SequenceId id = chunk.planned.sequence;
  const Request& request = request_of(id);
  chunk.position = static_cast<int64_t>(scheduler.sequence(id).tokens.size());
  const int64_t num_generated = chunk.position - request.prompt_tokens + 1;
  const int32_t max_tokens = request.params->max_tokens;
  chunk.is_last =
      (max_tokens >= 0 && num_generated >= max_tokens) || chunk.position + 1 >= int64_t{model.memory.max_seq_len};
  if (!chunk.is_last) return scheduler.append(id, -1 - chunk.draw);
  scheduler.remove(id);
  draw_states.release(id);
}

/// Waits for a step, and makes events of its tokens.
void Engine::State::collect(PendingStep& step, std::vector<TokenEvent>& events) {
  wait(step.slot, step.started);
  const std::span<const SampleResult> results = runner.results(step.slot);
  const auto vocab_size = static_cast<size_t>(model.spec.vocab_size);
  const std::span<float> rows = host_rows(step);
  for (const PendingChunk& chunk : step.chunks) {
    const auto found = requests.find(chunk.request);
    if (found == requests.end() || found->second.finished[static_cast<size_t>(chunk.index)]) {
      totals.discarded_draws += chunk.draw >= 0;
      continue;
    }
    Request& request = found->second;
    if (chunk.draw >= 0) {
      if (request.generated_tokens == 0) request.first_token = Clock::now();
      const int64_t room = model.memory.max_seq_len - chunk.position;
      TokenEvent event =
          request.generations[static_cast<size_t>(chunk.index)].next(results[static_cast<size_t>(chunk.draw)], room);
      if (!event.tokens.empty()) scheduler.set_token(chunk.planned.sequence, chunk.position, event.tokens.front());
      ++totals.device_draws;
      hand_out(request, chunk.index, std::move(event), events);
    } else if (chunk.num_rows > 0) {
      const std::span<float> own = rows.subspan(static_cast<size_t>(chunk.first_row - step.host_begin) * vocab_size,
                                                static_cast<size_t>(chunk.num_rows) * vocab_size);
      record_prompt_logprobs(chunk.planned, own);
      if (chunk.planned.completes) sample(chunk.planned, own.last(vocab_size), events);
    }
  }
}

/// The rows that the host draws from, or nothing.
std::span<float> Engine::State::host_rows(PendingStep& step) {
  if (!step.needs_host() || !step.kept_rows.empty()) return step.kept_rows;
  return device.run(*model.backend, [&] { return runner.logits(step.host_begin, step.host_end - step.host_begin); });
}

bool Engine::State::awaits_tokens() const {
  return pending && std::ranges::any_of(pending->chunks, [&](const PendingChunk& chunk) {
           const auto found = requests.find(chunk.request);
           return found != requests.end() && !found->second.finished[static_cast<size_t>(chunk.index)];
         });
}

void Engine::State::launch(int slot, std::span<const RunChunk> chunks, std::span<const BlockCopy> copies,
                           std::span<const SampleRow> draws) {
  device.run(*model.backend, [&] { runner.launch(slot, chunks, copies, draws); });
  totals.forward_batches += 1;
  for (const RunChunk& chunk : chunks) totals.forward_tokens += static_cast<int64_t>(chunk.tokens.size());
}

/// A step that was launched ahead begins when the one before ends.
void Engine::State::wait(int slot, Clock::time_point started) {
  device.run(*model.backend, [&] { runner.wait(slot); });
  const Clock::time_point now = Clock::now();
  totals.forward_seconds += seconds_between(std::max(started, last_done), now);
  last_done = now;
}

void Engine::State::forward(const RunChunk& chunk, bool draw) {
  // This pass writes its logits over those of the step under way.
  if (pending && pending->needs_host() && pending->kept_rows.empty()) {
    const std::span<float> rows = host_rows(*pending);
    pending->kept_rows.assign(rows.begin(), rows.end());
  }
  const int slot = free_slot();
  const Clock::time_point start = Clock::now();
  const SampleRow first_row;
  launch(slot, {&chunk, 1}, {}, {&first_row, draw && sampling.on_device ? size_t{1} : 0});
  wait(slot, start);
}

/// All rows while prompt logprobs are collected, else the one that gives the next token.
int32_t Engine::State::logit_rows_of(const PlannedChunk& chunk) {
  if (wants_prompt_logprobs(chunk)) return chunk.num_tokens;
  return chunk.completes ? 1 : 0;
}

bool Engine::State::wants_prompt_logprobs(const PlannedChunk& chunk) {
  const Request& request = request_of(chunk.sequence);
  return request.params->prompt_logprobs >= 0 && chunk.sequence == request.id && chunk.begin < request.prompt_tokens;
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
  for (TokenId token : event.tokens) scheduler.append(id, token);
  ++totals.host_draws;
  hand_out(request, index, std::move(event), events);
}

/// Completes the event of one sequence; ends the sequence where it says so.
void Engine::State::hand_out(Request& request, int32_t index, TokenEvent event, std::vector<TokenEvent>& events) {
  event.request = request.id;
  event.index = index;
  request.generated_tokens += static_cast<int64_t>(event.tokens.size());
  totals.generated_tokens += static_cast<int64_t>(event.tokens.size());
  if (event.finish != FinishReason::none) end_sequence(request, index);
  events.push_back(std::move(event));
}

void Engine::State::end_sequence(Request& request, int32_t index) {
  scheduler.remove(request.id + index);
  draw_states.release(request.id + index);
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

}  // namespace imp
