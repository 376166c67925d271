#include "backend/device_facts.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>

#include "core/text.h"

namespace imp::cuda {
namespace {

constexpr int kLeastCapability = 80;  // bf16 tensor cores and cp.async

std::string cuda_version(int version) { return cat(version / 1000, ".", version % 1000 / 10); }

}  // namespace

DeviceFacts device_facts(int index) {
  DeviceFacts facts;
  facts.runtime_version = CUDART_VERSION;
  facts.architectures = IMP_CUDA_ARCHITECTURES;
  facts.index = index;
  if (cudaDriverGetVersion(&facts.driver_version) != cudaSuccess) facts.driver_version = 0;
  if (facts.driver_version == 0) return facts;
  if (const cudaError_t status = cudaGetDeviceCount(&facts.num_devices); status != cudaSuccess) {
    facts.num_devices = 0;
    if (status != cudaErrorNoDevice) facts.error = cudaGetErrorString(status);
    return facts;
  }
  if (index < 0 || index >= facts.num_devices) return facts;
  cudaDeviceProp properties;
  if (const cudaError_t status = cudaGetDeviceProperties(&properties, index); status != cudaSuccess) {
    facts.error = cudaGetErrorString(status);
    return facts;
  }
  facts.name = properties.name;
  facts.major = properties.major, facts.minor = properties.minor;
  return facts;
}

bool has_kernels_for(const std::string& architectures, int major, int minor) {
  for (size_t begin = 0; begin < architectures.size();) {
    const size_t end = std::min(architectures.find(',', begin), architectures.size());
    const std::string one = architectures.substr(begin, end - begin);
    const int number = std::atoi(one.c_str());
    // Code for 90a runs on 9.0 alone; code for 80 also on later minors of 8. Without its "a", code for 90 lacks wgmma.
    const bool exact = one.ends_with("a"), lacks_wgmma = one == "90";
    if (!lacks_wgmma && number / 10 == major && (exact ? number % 10 == minor : number % 10 <= minor)) return true;
    begin = end + 1;
  }
  return false;
}

std::string why_unusable(const DeviceFacts& facts) {
  if (facts.driver_version == 0) return "no CUDA driver on this machine";
  if (facts.driver_version / 1000 < facts.runtime_version / 1000)
    return cat("the driver supports CUDA ", cuda_version(facts.driver_version), ", and this build needs ",
               cuda_version(facts.runtime_version), "; update the driver");
  if (!facts.error.empty()) return cat("the CUDA driver answers: ", facts.error);
  if (facts.num_devices == 0) return "no CUDA device on this machine";
  if (facts.index < 0 || facts.index >= facts.num_devices)
    return facts.num_devices == 1
               ? cat("there is no CUDA device ", facts.index, "; this machine has device 0 alone")
               : cat("there is no CUDA device ", facts.index, "; this machine has 0 to ", facts.num_devices - 1);
  const int capability = 10 * facts.major + facts.minor;
  if (capability < kLeastCapability)
    return cat(facts.name, " is sm_", capability, ", and imp needs sm_", kLeastCapability, " or later");
  if (!has_kernels_for(facts.architectures, facts.major, facts.minor))
    return cat(facts.name, " is sm_", capability, ", and this build has kernels for ", facts.architectures,
               " only; build with IMP_CUDA_ARCHITECTURES=", capability, capability == 90 ? "a" : "");
  return "";
}

}  // namespace imp::cuda
