#pragma once
#include <cstdint>
#include <functional>
#include <memory>

namespace imp {

/// A fixed set of worker threads that run one function together. The calling thread is worker 0.
/// Workers spin briefly between calls, then sleep, so that a decode step of many small ops is not
/// paced by the kernel's scheduler and an idle engine costs nothing.
class ThreadPool {
 public:
  /// `num_threads` >= 1, the calling thread included.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;

  /// Runs `body(worker)` on every worker, worker in [0, num_threads); returns when all are done.
  /// Not reentrant. `body` must not throw.
  void run(const std::function<void(int worker)>& body);

  /// Inside run(): waits until every worker has arrived.
  void barrier();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

struct Range {
  int64_t begin;
  int64_t end;
};

/// Worker `worker`'s contiguous share of [0, total), in multiples of `grain` but for the last. Depends on
/// nothing but the arguments, so which worker computes an element never changes between runs.
Range share_of(int64_t total, int worker, int num_workers, int64_t grain = 1);

}  // namespace imp
