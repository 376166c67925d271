#include "sched/scheduler.h"

#include <algorithm>
#include <cassert>

#include "core/text.h"
#include "kv/layout.h"

namespace imp {
namespace {

int64_t chunk_of(const Sequence& sequence, int64_t prefill_tokens) {
  if (sequence.num_pending() == 1) return 1;
  const int64_t most = sequence.max_chunk > 0 ? sequence.max_chunk : prefill_tokens;
  return std::min({sequence.num_pending(), prefill_tokens, most});
}

void release_blocks(Sequence& sequence, BlockPool& pool) {
  for (BlockId block : sequence.blocks) pool.release(block);
  sequence.blocks.clear();
  sequence.num_computed = 0;
}

}  // namespace

Scheduler::Scheduler(const SchedulerLimits& limits, BlockPool& pool) : limits_(limits), pool_(pool) {
  assert(limits.max_batch_size >= 1 && limits.max_step_tokens > limits.max_batch_size);
}

void Scheduler::add(Sequence sequence) {
  assert(!sequence.tokens.empty() && sequence.num_computed == 0 && sequence.blocks.empty());
  const SequenceId id = sequence.id;
  const bool is_new = sequences_.emplace(id, std::move(sequence)).second;
  assert(is_new);
  static_cast<void>(is_new);
  waiting_.insert(id);
}

void Scheduler::fork(SequenceId parent, SequenceId child) {
  Sequence copy = sequences_.at(parent);
  assert(copy.num_pending() == 0);
  copy.id = child;
  if (num_running() < limits_.max_batch_size) {
    for (BlockId block : copy.blocks) pool_.retain(block);
    running_.insert(child);
    stats_.max_running = std::max(stats_.max_running, static_cast<int32_t>(num_running()));
  } else {
    copy.blocks.clear();
    copy.num_computed = 0;
    waiting_.insert(child);
  }
  sequences_.emplace(child, std::move(copy));
}

void Scheduler::append(SequenceId id, int32_t token) { sequences_.at(id).tokens.push_back(token); }

void Scheduler::set_token(SequenceId id, int64_t position, int32_t token) {
  if (const auto found = sequences_.find(id); found != sequences_.end())
    found->second.tokens[static_cast<size_t>(position)] = token;
}

void Scheduler::remove(SequenceId id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  release_blocks(found->second, pool_);
  running_.erase(id);
  waiting_.erase(id);
  sequences_.erase(found);
}

StepPlan Scheduler::plan() {
  StepPlan plan;
  int64_t prefill_tokens = limits_.max_step_tokens;
  for (SequenceId id : running_) prefill_tokens -= sequences_.at(id).num_pending() == 1;

  // Oldest first: whoever is preempted for a block is younger, so it is not in the plan yet.
  for (auto it = running_.begin(); it != running_.end();) {
    const SequenceId id = *it;
    Sequence& sequence = sequences_.at(id);
    const int64_t num_tokens = chunk_of(sequence, prefill_tokens);
    if (num_tokens > 0 && reserve(sequence, num_tokens, plan)) {
      if (sequence.num_pending() > 1) prefill_tokens -= num_tokens;
      add_chunk(sequence, num_tokens, plan);
    }
    it = running_.upper_bound(id);
  }
  if (plan.preempted.empty()) admit(prefill_tokens, plan);
  stats_.max_running = std::max(stats_.max_running, static_cast<int32_t>(num_running()));
  return plan;
}

void Scheduler::admit(int64_t& prefill_tokens, StepPlan& plan) {
  while (!waiting_.empty() && prefill_tokens > 0 && num_running() < limits_.max_batch_size) {
    Sequence& sequence = sequences_.at(*waiting_.begin());
    // One spare block for each that runs already, or the newcomer would soon be thrown out again.
    const int64_t needed = blocks_for(static_cast<int64_t>(sequence.tokens.size()));
    if (pool_.num_free() < needed + num_running()) return;
    for (int64_t i = 0; i < needed; ++i) sequence.blocks.push_back(pool_.allocate().value());
    waiting_.erase(sequence.id);
    running_.insert(sequence.id);
    const int64_t num_tokens = chunk_of(sequence, prefill_tokens);
    prefill_tokens -= num_tokens;
    add_chunk(sequence, num_tokens, plan);
  }
}

void Scheduler::add_chunk(const Sequence& sequence, int64_t num_tokens, StepPlan& plan) const {
  plan.chunks.push_back({.sequence = sequence.id,
                         .begin = sequence.num_computed,
                         .num_tokens = static_cast<int32_t>(num_tokens),
                         .completes = num_tokens == sequence.num_pending()});
  plan.num_tokens += num_tokens;
}

/// Makes the next `num_tokens` slots of `sequence` its own: new blocks at the end, copies of blocks that others read,
/// too. False: it had to give up itself.
bool Scheduler::reserve(Sequence& sequence, int64_t num_tokens, StepPlan& plan) {
  const int64_t first = sequence.num_computed / kKvBlockSize;
  const int64_t last = (sequence.num_computed + num_tokens - 1) / kKvBlockSize;
  for (int64_t index = first; index <= last; ++index) {
    const bool is_new = index == static_cast<int64_t>(sequence.blocks.size());
    const auto at = static_cast<size_t>(index);
    if (!is_new && pool_.ref_count(sequence.blocks[at]) == 1) continue;
    const std::optional<BlockId> block = take_block(sequence, plan);
    if (!block) return false;
    if (is_new) {
      sequence.blocks.push_back(*block);
      continue;
    }
    // Taking the block may have preempted the other readers; the copy is then merely superfluous.
    plan.copies.push_back({.from = sequence.blocks[at], .to = *block});
    pool_.release(sequence.blocks[at]);
    sequence.blocks[at] = *block;
  }
  return true;
}

/// A free block, if need be one of the youngest sequence. Nothing where that is `taker` itself, which then waits.
std::optional<BlockId> Scheduler::take_block(const Sequence& taker, StepPlan& plan) {
  while (pool_.num_free() == 0) {
    const SequenceId victim = *running_.rbegin();
    preempt(victim, plan);
    if (victim == taker.id) return std::nullopt;
  }
  return pool_.allocate();
}

void Scheduler::preempt(SequenceId id, StepPlan& plan) {
  release_blocks(sequences_.at(id), pool_);
  running_.erase(id);
  waiting_.insert(id);
  plan.preempted.push_back(id);
  ++stats_.preemptions;
}

void Scheduler::commit(const StepPlan& plan) {
  for (const PlannedChunk& chunk : plan.chunks) sequences_.at(chunk.sequence).num_computed += chunk.num_tokens;
  stats_.block_copies += static_cast<int64_t>(plan.copies.size());
  if (!plan.chunks.empty()) ++stats_.steps;
}

std::string Scheduler::check_integrity() const {
  std::vector<const std::vector<BlockId>*> tables;
  for (const auto& [id, sequence] : sequences_) {
    const bool runs = running_.contains(id);
    if (runs == waiting_.contains(id)) return cat("sequence ", id, " is in both queues or in none");
    if (!runs && (!sequence.blocks.empty() || sequence.num_computed != 0))
      return cat("sequence ", id, " waits and holds blocks");
    if (sequence.num_computed > static_cast<int64_t>(sequence.blocks.size()) * kKvBlockSize)
      return cat("sequence ", id, " has more computed tokens than slots");
    tables.push_back(&sequence.blocks);
  }
  if (running_.size() + waiting_.size() != sequences_.size()) return "a queue names an unknown sequence";
  return pool_.check_integrity(tables);
}

}  // namespace imp
