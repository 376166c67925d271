#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "linear/packed_weight.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// Moves weights from the mapped file to the device and packs them there: two pinned buffers take turns, so that
/// reading the file, the copy and the packing of the part before run at once.
class WeightUpload {
 public:
  WeightUpload();
  ~WeightUpload();

  void run(WeightFormat format, std::span<const std::byte> data, int64_t rows, int64_t cols, void* packed,
           const LaunchContext& context);

 private:
  struct Slot;
  std::unique_ptr<Slot[]> slots_;
  int next_ = 0;
};

}  // namespace imp::cuda
