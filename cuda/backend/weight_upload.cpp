#include "backend/weight_upload.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

#include "backend/device_memory.h"
#include "core/error.h"
#include "linear/pack_weight.h"
#include "quant/format.h"

namespace imp::cuda {
namespace {

constexpr size_t kSlotBytes = size_t{4} << 20;
constexpr unsigned kMaxThreads = 12;

/// What one thread works with.
struct Slot {
  PinnedMemory host{kSlotBytes};
  DeviceMemory device{kSlotBytes};
  LaunchContext context;

  explicit Slot(const LaunchContext& with) : context(with) {
    context.launches = nullptr;  // the other threads count, too
    context.pdl_launches = nullptr;
    check(cudaStreamCreateWithFlags(&context.stream, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  ~Slot() {
    static_cast<void>(cudaStreamSynchronize(context.stream));
    static_cast<void>(cudaStreamDestroy(context.stream));
  }
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;

  void fetch(const void* from, size_t bytes, void* to) {
    check(cudaStreamSynchronize(context.stream), "waiting for an upload");
    std::memcpy(host.data(), from, bytes);
    check(cudaMemcpyAsync(to, host.data(), bytes, cudaMemcpyHostToDevice, context.stream), "uploading a weight");
  }
};

}  // namespace

struct WeightUpload::State {
  using Part = std::function<void(Slot&)>;

  LaunchContext context;
  int device = 0;
  cudaEvent_t allocated = nullptr;  // after what the latest weight's memory waits for
  std::mutex mutex;                 // guards what follows
  std::condition_variable changed;
  std::deque<Part> parts;
  unsigned busy = 0;
  bool ends = false;
  std::exception_ptr failure;  // the first; parts are dropped from then on
  std::vector<std::unique_ptr<Slot>> slots;
  std::vector<std::thread> threads;

  explicit State(const LaunchContext& with) : context(with) {
    check(cudaGetDevice(&device), "cudaGetDevice");
    check(cudaEventCreateWithFlags(&allocated, cudaEventDisableTiming), "cudaEventCreate");
  }
  ~State() {
    {
      const std::lock_guard lock(mutex);
      ends = true;
      parts.clear();
    }
    changed.notify_all();
    for (std::thread& thread : threads) thread.join();
    static_cast<void>(cudaEventDestroy(allocated));
  }

  void add(Part part) {
    {
      const std::lock_guard lock(mutex);
      parts.push_back(std::move(part));
      const unsigned most = std::clamp(std::thread::hardware_concurrency(), 1u, kMaxThreads);
      if (threads.size() < most && busy == threads.size()) threads.emplace_back([this] { work(); }), ++busy;
    }
    changed.notify_all();
  }

  /// Of a thread. It is busy unless it waits.
  void work() {
    Slot* slot = nullptr;
    std::unique_lock lock(mutex);
    for (;;) {
      while (!parts.empty() && !failure) {
        const Part part = std::move(parts.front());
        parts.pop_front();
        lock.unlock();
        std::exception_ptr thrown;
        std::unique_ptr<Slot> made;
        try {
          if (!slot) {
            check(cudaSetDevice(device), "cudaSetDevice");
            made = std::make_unique<Slot>(context);
            slot = made.get();
          }
          part(*slot);
        } catch (...) {
          thrown = std::current_exception();
        }
        lock.lock();
        if (made) slots.push_back(std::move(made));
        if (thrown && !failure) failure = thrown;
      }
      --busy;
      changed.notify_all();
      changed.wait(lock, [this] { return ends || (!parts.empty() && !failure); });
      if (ends) return;
      ++busy;
    }
  }
};

WeightUpload::WeightUpload(const LaunchContext& context) : state_(std::make_unique<State>(context)) {}
WeightUpload::~WeightUpload() = default;

void WeightUpload::run(WeightFormat format, std::span<const std::byte> data, int64_t rows, int64_t cols, void* packed) {
  const int64_t bytes_per_row = row_bytes(format, cols);
  const int64_t rows_per_part = static_cast<int64_t>(kSlotBytes) / bytes_per_row;
  if (rows_per_part == 0) fail(ErrorCode::unsupported, "a row of ", cols, " weights is larger than the upload buffer");
  State& s = *state_;
  check(cudaEventRecord(s.allocated, s.context.stream), "cudaEventRecord");
  for (int64_t first = 0; first < rows; first += rows_per_part) {
    const int64_t count = std::min(rows_per_part, rows - first);
    const std::span<const std::byte> part =
        data.subspan(static_cast<size_t>(first * bytes_per_row), static_cast<size_t>(count * bytes_per_row));
    s.add([=, allocated = s.allocated](Slot& slot) {
      slot.fetch(part.data(), part.size(), slot.device.data());
      check(cudaStreamWaitEvent(slot.context.stream, allocated, 0), "cudaStreamWaitEvent");
      pack_weight(format, slot.device.data(), first, count, rows, cols, packed, slot.context);
    });
  }
}

void WeightUpload::copy(std::vector<float> values, void* to) {
  State& s = *state_;
  check(cudaEventRecord(s.allocated, s.context.stream), "cudaEventRecord");
  const auto shared = std::make_shared<const std::vector<float>>(std::move(values));
  constexpr size_t kMost = kSlotBytes / sizeof(float);
  for (size_t first = 0; first < shared->size(); first += kMost) {
    const size_t count = std::min(kMost, shared->size() - first);
    s.add([=, allocated = s.allocated](Slot& slot) {
      check(cudaStreamWaitEvent(slot.context.stream, allocated, 0), "cudaStreamWaitEvent");
      slot.fetch(shared->data() + first, count * sizeof(float), static_cast<float*>(to) + first);
    });
  }
}

void WeightUpload::finish() {
  State& s = *state_;
  std::unique_lock lock(s.mutex);
  s.changed.wait(lock, [&s] { return s.busy == 0 && (s.parts.empty() || s.failure); });
  if (s.failure) std::rethrow_exception(s.failure);
  for (const std::unique_ptr<Slot>& slot : s.slots)
    check(cudaStreamSynchronize(slot->context.stream), "packing the weights");
}

}  // namespace imp::cuda
