#pragma once
#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine/device_guard.h"
#include "engine/draw_states.h"
#include "engine/engine.h"
#include "engine/generation.h"
#include "engine/load.h"
#include "engine/observers.h"
#include "engine/runner.h"
#include "kv/block_pool.h"
#include "sched/scheduler.h"

namespace imp {

using Clock = std::chrono::steady_clock;

inline double seconds_between(Clock::time_point from, Clock::time_point to) {
  return to > from ? std::chrono::duration<double>(to - from).count() : 0;
}

/// A request and its n sequences. Its id is the id of its first sequence; the others follow.
struct Request {
  RequestId id = 0;
  std::shared_ptr<const SamplingParams> params;
  int64_t prompt_tokens = 0;
  std::vector<Generation> generations;  // [n]
  std::vector<bool> finished;           // [n]
  bool forked = false;                  // sequences 1 to n-1 exist in the scheduler
  std::vector<std::vector<TokenLogprob>> prompt_logprobs;
  int64_t generated_tokens = 0;
  bool counted_host_draws = false;  // in the report
  Clock::time_point submitted, started, first_token, ended;

  bool is_done() const { return std::find(finished.begin(), finished.end(), false) == finished.end(); }
};

/// Where tokens are drawn, and whether the next step starts before the host has seen them.
struct SamplingMode {
  bool on_device = false;
  bool look_ahead = false;
  std::string reason;
};
/// By the backend's preference, or by EngineOptions::force_sampling.
SamplingMode choose_sampling(const EngineOptions& options, const Backend& backend);

/// A chunk of a step under way, and what is to be done with its rows of logits.
struct PendingChunk {
  PlannedChunk planned;
  RequestId request = 0;
  int32_t index = 0;      // which of the request's n sequences
  int64_t first_row = 0;  // of the step's logits
  int32_t num_rows = 0;
  int32_t draw = -1;     // index among the step's draws; -1: the host draws, or nobody
  int64_t position = 0;  // of the drawn token
  bool is_last = false;  // the drawn token ends the sequence whatever it is: the scheduler has forgotten it
};

/// A step that was launched and whose tokens nobody has looked at.
struct PendingStep {
  int slot = 0;
  std::vector<PendingChunk> chunks;
  int64_t host_begin = 0, host_end = 0;  // rows of logits that the host needs; it then waits for them before going on
  std::vector<float> kept_rows = {};     // these, where another pass has run since
  Clock::time_point started;

  bool needs_host() const { return host_end > host_begin; }
};

/// Sums over the engine's life, for the report.
struct EngineTotals {
  int64_t forward_batches = 0;
  int64_t forward_tokens = 0;
  double forward_seconds = 0;
  int64_t requests = 0;
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
  int64_t device_draws = 0, host_draws = 0;
  int64_t steps_ahead = 0;      // launched before the tokens of the step before were known
  int64_t discarded_draws = 0;  // of sequences that turned out to have ended
  std::map<std::string, int64_t, std::less<>> host_requests;  // what made the host draw -> requests
};

struct Engine::State {
  State(const EngineOptions& engine_options, Config settings);

  EngineOptions options;
  Config config;                   // before the model: its backend reads the settings
  std::vector<std::string> inert;  // settings without effect on this model, in words
  LoadedModel model;
  DeviceGuard device;
  VocabInfo vocab;
  BlockPool pool;
  Scheduler scheduler;
  SamplingMode sampling;
  DrawStates draw_states;
  Runner runner;
  Observers observers;
  std::map<RequestId, Request> requests;
  RequestId next_id = 0;
  uint64_t seed_source;  // for requests without a seed
  EngineTotals totals;
  std::optional<PendingStep> pending;
  Clock::time_point last_done;  // when the step before was seen to be through
  std::vector<BlockId> bench_blocks;
  int64_t bench_tokens = 0;

  std::mutex cancel_mutex;  // guards `cancelled`, the one thing other threads write
  std::vector<RequestId> cancelled;

  const Settings& settings() const { return config.settings(); }
  Request& request_of(SequenceId id) { return std::prev(requests.upper_bound(id))->second; }

  /// Runs a batch outside of the scheduler and waits for it; logits: runner.logits(). With `draw` a token is drawn, and
  /// forgotten, where tokens are drawn on the device: the step is then one of those that requests run.
  void forward(const RunChunk& chunk, bool draw = false);

  // A step, in engine/step.cpp.
  void end_cancelled(std::vector<TokenEvent>& events);
  std::optional<PendingStep> launch_next();
  void launch(int slot, std::span<const RunChunk> chunks, std::span<const BlockCopy> copies,
              std::span<const SampleRow> draws);
  void wait(int slot, Clock::time_point started);
  PendingChunk prepare(const PlannedChunk& planned, PendingStep& step, std::vector<SampleRow>& draws);
  void expect_token(PendingChunk& chunk);
  void collect(PendingStep& step, std::vector<TokenEvent>& events);
  std::span<float> host_rows(PendingStep& step);
  bool awaits_tokens() const;  // whether the pending step has tokens that somebody waits for
  int free_slot() const { return pending ? 1 - pending->slot : 0; }
  int32_t logit_rows_of(const PlannedChunk& chunk);
  bool wants_prompt_logprobs(const PlannedChunk& chunk);
  void record_prompt_logprobs(const PlannedChunk& chunk, std::span<const float> rows);
  void sample(const PlannedChunk& chunk, std::span<float> row, std::vector<TokenEvent>& events);
  void sample_one(Request& request, int32_t index, std::span<float> row, std::vector<TokenEvent>& events);
  void hand_out(Request& request, int32_t index, TokenEvent event, std::vector<TokenEvent>& events);
  void end_sequence(Request& request, int32_t index);
  void warm_up();
};

/// Blocks for a sequence outside the scheduler: measurements. Given back at the end.
class ScratchSequence {
 public:
  /// invalid_argument where the context or the free blocks are too few.
  ScratchSequence(Engine::State& state, int64_t num_tokens);
  ~ScratchSequence();
  ScratchSequence(const ScratchSequence&) = delete;
  ScratchSequence& operator=(const ScratchSequence&) = delete;

  /// Runs `tokens` (at most what a step takes) after those before; logits of the last `num_logit_rows`.
  std::span<float> run(std::span<const TokenId> tokens, int32_t num_logit_rows, bool draw = false);

 private:
  Engine::State& state_;
  std::vector<BlockId> blocks_;
  int64_t num_computed_ = 0;
};

}  // namespace imp
