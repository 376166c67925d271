#include "backend/weight_upload.h"

#include <algorithm>
#include <cstring>

#include "backend/device_memory.h"
#include "core/error.h"
#include "linear/pack_weight.h"
#include "quant/format.h"

namespace imp::cuda {
namespace {

constexpr int kSlots = 2;
constexpr size_t kSlotBytes = size_t{32} << 20;

}  // namespace

struct WeightUpload::Slot {
  PinnedMemory host{kSlotBytes};
  DeviceMemory device{kSlotBytes};
  cudaEvent_t packed = nullptr;

  Slot() { check(cudaEventCreateWithFlags(&packed, cudaEventDisableTiming), "cudaEventCreate"); }
  ~Slot() { static_cast<void>(cudaEventDestroy(packed)); }
};

WeightUpload::WeightUpload() : slots_(std::make_unique<Slot[]>(kSlots)) {}
WeightUpload::~WeightUpload() = default;

void WeightUpload::run(WeightFormat format, std::span<const std::byte> data, int64_t rows, int64_t cols, void* packed,
                       const LaunchContext& context) {
  const int64_t bytes_per_row = row_bytes(format, cols);
  const int64_t rows_per_part = static_cast<int64_t>(kSlotBytes) / bytes_per_row;
  if (rows_per_part == 0) fail(ErrorCode::unsupported, "a row of ", cols, " weights is larger than the upload buffer");
  for (int64_t first = 0; first < rows; first += rows_per_part) {
    Slot& slot = slots_[static_cast<size_t>(next_)];
    next_ = (next_ + 1) % kSlots;
    const int64_t count = std::min(rows_per_part, rows - first);
    const auto bytes = static_cast<size_t>(count * bytes_per_row);
    check(cudaEventSynchronize(slot.packed), "waiting for an upload");
    std::memcpy(slot.host.data(), data.data() + first * bytes_per_row, bytes);
    check(cudaMemcpyAsync(slot.device.data(), slot.host.data(), bytes, cudaMemcpyHostToDevice, context.stream),
          "uploading a weight");
    pack_weight(format, slot.device.data(), first, count, rows, cols, packed, context);
    check(cudaEventRecord(slot.packed, context.stream), "cudaEventRecord");
  }
}

}  // namespace imp::cuda
