#pragma once
#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/generation.h"
#include "engine/load.h"
#include "engine/observers.h"
#include "engine/runner.h"
#include "kv/block_pool.h"
#include "sched/scheduler.h"

namespace imp {

using Clock = std::chrono::steady_clock;

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
  Clock::time_point submitted, started, first_token, ended;

  bool is_done() const { return std::find(finished.begin(), finished.end(), false) == finished.end(); }
};

/// Sums over the engine's life, for the report.
struct EngineTotals {
  int64_t forward_batches = 0;
  int64_t forward_tokens = 0;
  double forward_seconds = 0;
  int64_t requests = 0;
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
};

struct Engine::State {
  State(const EngineOptions& engine_options, Config settings);

  EngineOptions options;
  Config config;                   // before the model: its backend reads the settings
  std::vector<std::string> inert;  // settings without effect on this model, in words
  LoadedModel model;
  VocabInfo vocab;
  BlockPool pool;
  Scheduler scheduler;
  Runner runner;
  Observers observers;
  std::map<RequestId, Request> requests;
  RequestId next_id = 0;
  uint64_t seed_source;  // for requests without a seed
  EngineTotals totals;
  std::vector<BlockId> bench_blocks;
  int64_t bench_tokens = 0;

  std::mutex cancel_mutex;  // guards `cancelled`, the one thing other threads write
  std::vector<RequestId> cancelled;

  const Settings& settings() const { return config.settings(); }
  Request& request_of(SequenceId id) { return std::prev(requests.upper_bound(id))->second; }

  std::span<float> forward(std::span<const RunChunk> chunks, std::span<const BlockCopy> copies = {});
  void end_cancelled(std::vector<TokenEvent>& events);
  std::span<float> run_plan(const StepPlan& plan);
  int32_t logit_rows_of(const PlannedChunk& chunk);
  void record_prompt_logprobs(const PlannedChunk& chunk, std::span<const float> rows);
  void sample(const PlannedChunk& chunk, std::span<float> row, std::vector<TokenEvent>& events);
  void sample_one(Request& request, int32_t index, std::span<float> row, std::vector<TokenEvent>& events);
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
  std::span<float> run(std::span<const TokenId> tokens, int32_t num_logit_rows);

 private:
  Engine::State& state_;
  std::vector<BlockId> blocks_;
  int64_t num_computed_ = 0;
};

}  // namespace imp
