#include "core/parallel.h"

#include <atomic>
#include <cassert>
#include <thread>
#include <vector>

namespace imp {
namespace {

// Roughly 50 us of pauses cover the gap between two ops of a step; then a few yields let others run where there are
// more threads than cores; then the worker sleeps.
constexpr int kSpinsBeforeYield = 2000;
constexpr int kYieldsBeforeSleep = 32;

inline void cpu_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

/// Waits for `ready()` by spinning, then by giving the core away each time. Never sleeps: for waits that are short
/// unless the thread waited for has lost its core.
template <class Ready>
void spin_until(Ready ready) {
  for (int spins = 0; !ready(); ++spins) {
    if (spins < kSpinsBeforeYield)
      cpu_pause();
    else
      std::this_thread::yield();
  }
}

}  // namespace

struct ThreadPool::State {
  explicit State(int threads) : num_threads(threads) {}

  int num_threads;
  std::vector<std::thread> threads;
  const std::function<void(int)>* body = nullptr;  // published by `generation`, empty to stop

  // Each on its own cache line: the workers poll the first while others write the rest.
  alignas(64) std::atomic<int> generation{0};
  alignas(64) std::atomic<int> running{0};
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<int> phase{0};

  void wait_for_work(int seen) {
    for (int spins = 0; spins < kSpinsBeforeYield; ++spins) {
      if (generation.load(std::memory_order_acquire) != seen) return;
      cpu_pause();
    }
    for (int yields = 0; yields < kYieldsBeforeSleep; ++yields) {
      if (generation.load(std::memory_order_acquire) != seen) return;
      std::this_thread::yield();
    }
    generation.wait(seen, std::memory_order_acquire);
  }

  void publish(const std::function<void(int)>* next) {
    body = next;
    running.store(num_threads - 1, std::memory_order_relaxed);
    generation.fetch_add(1, std::memory_order_release);
    generation.notify_all();
  }

  void work(int worker) {
    for (int seen = 0;; ++seen) {
      wait_for_work(seen);
      if (!body) return;
      (*body)(worker);
      running.fetch_sub(1, std::memory_order_release);
    }
  }
};

ThreadPool::ThreadPool(int num_threads) : state_(std::make_unique<State>(num_threads)) {
  assert(num_threads >= 1);
  state_->threads.reserve(static_cast<size_t>(num_threads) - 1);
  for (int worker = 1; worker < num_threads; ++worker)
    state_->threads.emplace_back([state = state_.get(), worker] { state->work(worker); });
}

ThreadPool::~ThreadPool() {
  state_->publish(nullptr);
  for (std::thread& thread : state_->threads) thread.join();
}

int ThreadPool::num_threads() const { return state_->num_threads; }

void ThreadPool::run(const std::function<void(int worker)>& body) {
  if (state_->num_threads == 1) return body(0);
  state_->publish(&body);
  body(0);
  spin_until([this] { return state_->running.load(std::memory_order_acquire) == 0; });
}

void ThreadPool::barrier() {
  State& s = *state_;
  if (s.num_threads == 1) return;
  const int phase = s.phase.load(std::memory_order_relaxed);
  if (s.arrived.fetch_add(1, std::memory_order_acq_rel) == s.num_threads - 1) {
    s.arrived.store(0, std::memory_order_relaxed);
    s.phase.store(phase + 1, std::memory_order_release);
    return;
  }
  spin_until([&s, phase] { return s.phase.load(std::memory_order_acquire) != phase; });
}

Range share_of(int64_t total, int worker, int num_workers, int64_t grain) {
  const int64_t grains = (total + grain - 1) / grain;
  const int64_t each = grains / num_workers;
  const int64_t longer = grains % num_workers;  // the first `longer` workers take one grain more
  const int64_t begin = worker * each + (worker < longer ? worker : longer);
  const int64_t end = begin + each + (worker < longer ? 1 : 0);
  return {begin * grain < total ? begin * grain : total, end * grain < total ? end * grain : total};
}

}  // namespace imp
