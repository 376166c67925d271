#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "linear/packed_weight.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// Moves weights from the mapped file to the device and packs them there. Threads of its own take parts of 4 MiB in
/// turn: each copies its part into pinned memory, from where the device fetches and packs it while the other threads
/// read on. One thread reads a mapped file that is in memory already at 5 to 8 GB/s, a PCIe 5 link takes 50. Pieces are
/// small so that what was copied is still in the host's caches when the device fetches it.
///
/// run() and copy() come back at once; nothing is in place before finish().
class WeightUpload {
 public:
  /// For the current device.
  explicit WeightUpload(const LaunchContext& context);
  ~WeightUpload();
  WeightUpload(const WeightUpload&) = delete;
  WeightUpload& operator=(const WeightUpload&) = delete;

  /// `data` stays readable until finish(). `packed` is written after the work that `context.stream` has now.
  void run(WeightFormat format, std::span<const std::byte> data, int64_t rows, int64_t cols, void* packed);
  void copy(std::vector<float> values, void* to);
  /// Waits for all of it; throws what went wrong first.
  void finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace imp::cuda
