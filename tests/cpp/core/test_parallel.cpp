#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "core/parallel.h"

using namespace imp;

TEST_CASE("every worker runs once a call, on any number of threads, and its writes are seen") {
  for (int threads = 1; threads <= 8; ++threads) {
    ThreadPool pool(threads);
    CHECK(pool.num_threads() == threads);
    std::vector<int> calls(threads);  // plain memory: run() must order the accesses
    for (int round = 0; round < 300; ++round) {
      pool.run([&](int worker) { ++calls[worker]; });
      for (int worker = 0; worker < threads; ++worker) REQUIRE(calls[worker] == round + 1);
    }
  }
}

TEST_CASE("a barrier separates phases: nobody reads before everybody wrote") {
  for (int threads = 1; threads <= 8; ++threads) {
    ThreadPool pool(threads);
    std::vector<int> value(threads);
    std::vector<int> wrong(threads);
    for (int round = 0; round < 50; ++round) {
      pool.run([&](int worker) {
        for (int phase = 0; phase < 5; ++phase) {
          value[worker] = round * 10 + phase;
          pool.barrier();
          for (int other = 0; other < threads; ++other) wrong[worker] += value[other] != round * 10 + phase;
          pool.barrier();
        }
      });
    }
    for (int count : wrong) CHECK(count == 0);
  }
}

TEST_CASE("workers that went to sleep wake up for the next call") {
  ThreadPool pool(3);
  std::atomic<int> sum{0};
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    pool.run([&](int worker) { sum += worker; });
    CHECK(sum == 3 * (round + 1));
  }
}

TEST_CASE("an idle pool ends at once") {
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 20; ++i) ThreadPool pool(4);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(5));
}

TEST_CASE("shares cover everything once, in order, in whole grains") {
  for (int64_t total : {0, 1, 7, 16, 33, 100, 1000}) {
    for (int workers = 1; workers <= 9; ++workers) {
      for (int64_t grain : {1, 4, 16}) {
        int64_t next = 0;
        for (int worker = 0; worker < workers; ++worker) {
          const Range share = share_of(total, worker, workers, grain);
          CHECK(share.begin == next);
          CHECK(share.end >= share.begin);
          if (share.end != total) CHECK(share.end % grain == 0);
          next = share.end;
        }
        CHECK(next == total);
      }
    }
  }
}
