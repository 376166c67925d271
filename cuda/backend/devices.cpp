#include <cuda_runtime_api.h>

#include "backend/device_facts.h"
#include "exec/backend.h"
#include "runtime/check.h"
#include "runtime/read_bandwidth.h"

// What people ask about the devices of this machine, outside of an engine.

namespace imp {

using namespace cuda;

std::string why_no_cuda(int device) { return why_unusable(device_facts(device)); }

std::vector<CudaDevice> cuda_devices() {
  std::vector<CudaDevice> devices;
  const int count = device_facts(0).num_devices;
  int before = 0;
  if (count > 0) check(cudaGetDevice(&before), "cudaGetDevice");
  for (int index = 0; index < count; ++index) {
    const DeviceFacts facts = device_facts(index);
    CudaDevice device{.index = index,
                      .name = facts.name,
                      .major = facts.major,
                      .minor = facts.minor,
                      .driver_version = facts.driver_version,
                      .runtime_version = facts.runtime_version,
                      .architectures = facts.architectures,
                      .why_not = why_unusable(facts)};
    size_t free = 0, total = 0;
    // A device that is full, or in another process's exclusive hands, answers with an error: its line says so.
    if (device.why_not.empty()) {
      cudaError_t status = cudaSetDevice(index);
      if (status == cudaSuccess) status = cudaMemGetInfo(&free, &total);
      if (status != cudaSuccess) device.why_not = cudaGetErrorString(status);
    }
    device.free_bytes = free, device.total_bytes = total;
    devices.push_back(std::move(device));
  }
  if (count > 0) check(cudaSetDevice(before), "cudaSetDevice");
  return devices;
}

double cuda_read_bandwidth(int device) {
  const DeviceFacts facts = device_facts(device);
  if (const std::string reason = why_unusable(facts); !reason.empty())
    fail(ErrorCode::cuda, "cannot measure CUDA device ", device, ": ", reason);
  check(cudaSetDevice(device), "cudaSetDevice");
  return measure_read_bandwidth();
}

}  // namespace imp
