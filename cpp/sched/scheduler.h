#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "kv/block_pool.h"
#include "sched/plan.h"
#include "sched/request.h"

namespace imp {

struct SchedulerLimits {
  int32_t max_batch_size = 4;     // sequences that run at once
  int32_t max_step_tokens = 512;  // in one forward batch; more than max_batch_size
};

struct SchedulerStats {
  int64_t steps = 0;
  int64_t preemptions = 0;
  int64_t block_copies = 0;
  int32_t max_running = 0;
};

/// Decides which tokens run next. Every running sequence that decodes gets its token each step; prompts fill the rest
/// of the step in chunks; new sequences come in first-come-first-served. Where blocks run out, the youngest sequence
/// gives up its own and is computed again later.
///
/// Nothing starves: the oldest sequence can always take the blocks of all others, and a pool that holds one sequence
/// of full length (the caller's duty) is therefore enough for any load.
class Scheduler {
 public:
  Scheduler(const SchedulerLimits& limits, BlockPool& pool);

  /// Queues a sequence; nothing of it is computed yet.
  void add(Sequence sequence);
  /// `child` continues from where `parent` is. It shares the parent's blocks where the batch has room for it, else it
  /// queues and is computed on its own. Only right after the parent's tokens were all computed.
  void fork(SequenceId parent, SequenceId child);
  /// A token below 0 stands for one that is drawn but not known yet; set_token() tells it later, if the
  /// sequence is still there.
  void append(SequenceId id, int32_t token);
  void set_token(SequenceId id, int64_t position, int32_t token);
  /// Forgets a sequence, running or waiting; its blocks are released.
  void remove(SequenceId id);

  /// Takes blocks for the next step; empty when nothing can run. commit() says that the plan was run.
  StepPlan plan();
  void commit(const StepPlan& plan);

  const Sequence& sequence(SequenceId id) const { return sequences_.at(id); }
  bool empty() const { return sequences_.empty(); }
  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  const SchedulerStats& stats() const { return stats_; }
  const SchedulerLimits& limits() const { return limits_; }

  /// Books of pool and sequences against each other; "" when sound.
  std::string check_integrity() const;

 private:
  bool reserve(Sequence& sequence, int64_t num_tokens, StepPlan& plan);
  std::optional<BlockId> take_block(const Sequence& taker, StepPlan& plan);
  void preempt(SequenceId id, StepPlan& plan);
  void admit(int64_t& prefill_tokens, StepPlan& plan);
  void add_chunk(const Sequence& sequence, int64_t num_tokens, StepPlan& plan) const;

  SchedulerLimits limits_;
  BlockPool& pool_;
  std::map<SequenceId, Sequence> sequences_;
  std::set<SequenceId> running_, waiting_;  // oldest first
  SchedulerStats stats_;
};

}  // namespace imp
