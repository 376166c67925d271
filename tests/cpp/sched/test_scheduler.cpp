#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <random>

#include "kv/layout.h"
#include "sched/scheduler.h"

using namespace imp;

namespace {

constexpr int32_t kVocab = 50000;

uint64_t mix(uint64_t state, uint64_t value) {
  state ^= value + 0x9e3779b97f4a7c15u + (state << 6) + (state >> 2);
  state *= 0xff51afd7ed558ccdu;
  return state ^ (state >> 33);
}

/// A "model" whose cache cell of a position is a hash of all tokens up to it, computed from the cell before it through
/// the block table: a wrong block, a lost copy or a stale cell changes every token after it.
class HashModel {
 public:
  explicit HashModel(int64_t num_blocks) : cells_(static_cast<size_t>(num_blocks * kKvBlockSize), 0xdead) {}

  void run(const StepPlan& plan, const Scheduler& scheduler) {
    for (const BlockCopy& copy : plan.copies)
      std::copy_n(&cells_[slot(copy.from, 0)], kKvBlockSize, &cells_[slot(copy.to, 0)]);
    for (const PlannedChunk& chunk : plan.chunks) {
      const Sequence& sequence = scheduler.sequence(chunk.sequence);
      for (int64_t p = chunk.begin; p < chunk.begin + chunk.num_tokens; ++p)
        cell(sequence, p) = mix(p == 0 ? 1 : cell(sequence, p - 1), static_cast<uint64_t>(sequence.tokens[size_t(p)]));
    }
  }
  uint64_t state(const Sequence& sequence) { return cell(sequence, static_cast<int64_t>(sequence.tokens.size()) - 1); }

  static uint64_t state_of(const std::vector<int32_t>& tokens) {
    uint64_t state = 1;
    for (int32_t token : tokens) state = mix(state, static_cast<uint64_t>(token));
    return state;
  }
  static int32_t next(uint64_t state, int index) {
    return static_cast<int32_t>(mix(state, static_cast<uint64_t>(index)) % kVocab);
  }

 private:
  static size_t slot(BlockId block, int64_t offset) { return static_cast<size_t>(block * kKvBlockSize + offset); }
  uint64_t& cell(const Sequence& sequence, int64_t p) {
    return cells_[slot(sequence.blocks.at(static_cast<size_t>(p / kKvBlockSize)), p % kKvBlockSize)];
  }
  std::vector<uint64_t> cells_;
};

struct Client {
  std::vector<int32_t> prompt;
  int n = 1, index = 0;  // samples of the request; which of them this is
  size_t max_length = 0;
  bool forked = false;
  int64_t submitted_step = 0;
};

std::vector<int32_t> solo_run(const Client& client) {
  std::vector<int32_t> tokens = client.prompt;
  while (tokens.size() < client.max_length)
    tokens.push_back(HashModel::next(HashModel::state_of(tokens), client.index));
  return tokens;
}

struct Stream {
  uint64_t seed;
  int64_t num_blocks;
  SchedulerLimits limits;
  size_t max_seq_len;
  int steps;
};

/// Drives random arrivals, forks and cancellations; checks the books after each step and every output at its end.
SchedulerStats drive(const Stream& stream) {
  std::mt19937_64 random(stream.seed);
  BlockPool pool(stream.num_blocks);
  Scheduler scheduler(stream.limits, pool);
  HashModel model(stream.num_blocks);
  std::map<SequenceId, Client> clients;
  SequenceId next_id = 0;
  int64_t finished = 0;

  for (int step = 0; step < stream.steps || !clients.empty(); ++step) {
    REQUIRE(step < stream.steps * 50);  // everything ends
    if (step < stream.steps && random() % 3 == 0 && scheduler.num_waiting() < 20) {
      Client client;
      client.n = random() % 4 == 0 ? 1 + static_cast<int>(random() % 4) : 1;
      const size_t length = 1 + random() % (stream.max_seq_len - 1);
      for (size_t i = 0; i < length; ++i) client.prompt.push_back(static_cast<int32_t>(random() % kVocab));
      client.max_length = length + 1 + random() % (stream.max_seq_len - length);
      client.submitted_step = step;
      Sequence sequence;
      sequence.id = next_id;
      sequence.tokens = client.prompt;
      sequence.max_chunk = random() % 4 == 0 ? 5 : 0;
      clients[next_id] = client;
      next_id += client.n;
      scheduler.add(std::move(sequence));
    }
    if (random() % 40 == 0 && !clients.empty()) {  // a client leaves
      auto gone = std::next(clients.begin(), static_cast<long>(random() % clients.size()));
      scheduler.remove(gone->first);
      clients.erase(gone);
    }

    const StepPlan plan = scheduler.plan();
    if (!scheduler.empty()) REQUIRE((!plan.chunks.empty() || !plan.preempted.empty()));
    REQUIRE(plan.num_tokens <= stream.limits.max_step_tokens);
    REQUIRE(scheduler.num_running() <= stream.limits.max_batch_size);
    model.run(plan, scheduler);
    scheduler.commit(plan);

    for (const PlannedChunk& chunk : plan.chunks) {
      REQUIRE(clients.contains(chunk.sequence));  // a cancelled one never runs again
      if (!chunk.completes) continue;
      const uint64_t state = model.state(scheduler.sequence(chunk.sequence));
      std::vector<SequenceId> samples = {chunk.sequence};
      Client& client = clients.at(chunk.sequence);
      if (client.index == 0 && client.n > 1 && !client.forked) {
        client.forked = true;
        for (int i = 1; i < client.n; ++i) {
          Client child = client;
          child.index = i;
          clients[chunk.sequence + i] = child;
          scheduler.fork(chunk.sequence, chunk.sequence + i);
          samples.push_back(chunk.sequence + i);
        }
      }
      for (SequenceId id : samples) {
        const Client& sampled = clients.at(id);
        scheduler.append(id, HashModel::next(state, sampled.index));
        const Sequence& sequence = scheduler.sequence(id);
        if (sequence.tokens.size() < sampled.max_length) continue;
        REQUIRE(sequence.tokens == solo_run(sampled));
        scheduler.remove(id);
        clients.erase(id);
        ++finished;
      }
    }
    const std::string wrong = scheduler.check_integrity();
    REQUIRE_MESSAGE(wrong.empty(), wrong);
  }
  CHECK(pool.num_free() == stream.num_blocks);
  CHECK(finished > 0);
  return scheduler.stats();
}

}  // namespace

TEST_CASE("random streams: every output equals its solo run") {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    CAPTURE(seed);
    const SchedulerStats stats = drive({seed, 400, {8, 64}, 200, 1500});
    CHECK(stats.max_running > 4);
    CHECK(stats.block_copies > 0);
  }
}

TEST_CASE("pools that hold one sequence only: preemption changes no token and nobody starves") {
  int64_t preemptions = 0;
  for (uint64_t seed = 11; seed <= 22; ++seed) {
    CAPTURE(seed);
    const int64_t blocks = 4 + static_cast<int64_t>(seed % 3);
    preemptions += drive({seed, blocks, {6, 24}, 64, 1200}).preemptions;
  }
  CHECK(preemptions > 100);
}

TEST_CASE("one slot, one token over it") {
  const SchedulerStats stats = drive({31, 3, {1, 2}, 40, 800});
  CHECK(stats.max_running == 1);
  CHECK(stats.preemptions == 0);
}

TEST_CASE("more requests than slots: the batch fills to its limit, oldest first") {
  BlockPool pool(100);
  Scheduler scheduler({3, 64}, pool);
  for (SequenceId id = 0; id < 6; ++id) scheduler.add({.id = id, .tokens = std::vector<int32_t>(10, 1)});
  const StepPlan plan = scheduler.plan();
  REQUIRE(plan.chunks.size() == 3);
  for (size_t i = 0; i < 3; ++i) CHECK(plan.chunks[i].sequence == static_cast<SequenceId>(i));
  CHECK(scheduler.num_waiting() == 3);
}

TEST_CASE("a long prompt runs in chunks while others decode") {
  BlockPool pool(100);
  Scheduler scheduler({4, 40}, pool);
  scheduler.add({.id = 0, .tokens = {1, 2, 3}});
  scheduler.commit(scheduler.plan());
  scheduler.append(0, 9);
  scheduler.add({.id = 1, .tokens = std::vector<int32_t>(100, 7)});
  std::vector<int32_t> chunks;
  for (bool done = false; !done;) {
    const StepPlan plan = scheduler.plan();
    REQUIRE(plan.chunks.size() == 2);
    CHECK(plan.chunks[0].num_tokens == 1);  // the decoding one is never held up
    chunks.push_back(plan.chunks[1].num_tokens);
    done = plan.chunks[1].completes;
    scheduler.commit(plan);
    scheduler.append(0, 9);
  }
  CHECK(chunks == std::vector<int32_t>{39, 39, 22});
}

TEST_CASE("forks share the prompt's blocks; the first to write copies the partial one") {
  BlockPool pool(20);
  Scheduler scheduler({4, 64}, pool);
  scheduler.add({.id = 0, .tokens = std::vector<int32_t>(40, 1)});
  scheduler.commit(scheduler.plan());
  for (SequenceId child = 1; child < 4; ++child) scheduler.fork(0, child);
  CHECK(pool.num_used() == 3);
  for (SequenceId id = 0; id < 4; ++id) scheduler.append(id, static_cast<int32_t>(id));
  const StepPlan plan = scheduler.plan();
  CHECK(plan.copies.size() == 3);  // the last owner writes in place
  CHECK(pool.num_used() == 2 + 4);
  CHECK(scheduler.check_integrity() == "");
  for (SequenceId id = 0; id < 4; ++id) scheduler.remove(id);
  CHECK(pool.num_used() == 0);
}

TEST_CASE("a newcomer needs a spare block for each that runs, or it would soon be thrown out again") {
  for (const int64_t spare : {0, 1}) {
    CAPTURE(spare);
    BlockPool pool(1 + 2 + spare);
    Scheduler scheduler({4, 64}, pool);
    scheduler.add({.id = 0, .tokens = std::vector<int32_t>(10, 1)});
    scheduler.commit(scheduler.plan());
    scheduler.append(0, 9);
    scheduler.add({.id = 1, .tokens = std::vector<int32_t>(20, 1)});
    CHECK(scheduler.plan().chunks.size() == size_t(1 + spare));
    CHECK(scheduler.num_waiting() == 1 - spare);
  }
}
