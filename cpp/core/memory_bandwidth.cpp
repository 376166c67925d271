#include "core/memory_bandwidth.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/parallel.h"

namespace imp {
namespace {

constexpr int64_t kBytes = int64_t{512} << 20;
constexpr int kPasses = 5;
// Eight independent sums of 32 bytes: enough loads in flight to be paced by memory, not by the additions.
constexpr int kLanes = 8 * 4;

uint64_t sum_of(const uint64_t* words, int64_t count) {
  uint64_t sums[kLanes] = {};
  for (int64_t i = 0; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] += words[i + lane];
  uint64_t total = 0;
  for (uint64_t sum : sums) total += sum;
  return total;
}

}  // namespace

double measure_read_bandwidth(int num_threads) {
  const int64_t count = kBytes / static_cast<int64_t>(sizeof(uint64_t));
  std::vector<uint64_t> words(static_cast<size_t>(count));
  ThreadPool pool(std::max(1, num_threads));
  std::vector<uint64_t> sums(static_cast<size_t>(pool.num_threads()));

  // Written by the threads that read them, so that every page is real and near its reader.
  pool.run([&](int worker) {
    const Range share = share_of(count, worker, pool.num_threads(), 4096);
    for (int64_t i = share.begin; i < share.end; ++i) words[static_cast<size_t>(i)] = static_cast<uint64_t>(i);
  });
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    pool.run([&](int worker) {
      const Range share = share_of(count, worker, pool.num_threads(), 4096);
      sums[static_cast<size_t>(worker)] += sum_of(words.data() + share.begin, share.end - share.begin);
    });
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(kBytes) / elapsed.count());
  }
  // The sums are used, so that the compiler must compute them.
  volatile uint64_t sink = 0;
  for (uint64_t sum : sums) sink = sink + sum;
  return best;
}

}  // namespace imp
