#pragma once
#include <string>

namespace imp::cuda {

/// What decides whether a device can be used; plain data, so that every refusal is tested without a GPU.
struct DeviceFacts {
  int driver_version = 0;  // CUDA version that the driver supports, as 1000 * major + 10 * minor; 0: there is no driver
  int runtime_version = 0;  // that this build needs
  std::string error;        // what counting the devices answered; empty: nothing
  int num_devices = 0;
  int index = 0;  // the device asked for
  std::string name;
  int major = 0, minor = 0;
  std::string architectures;  // that this build has kernels for: "90a,120a"
};

/// Asks the driver. Never throws.
DeviceFacts device_facts(int index);

/// "" where the device can be used, else one line why not.
std::string why_unusable(const DeviceFacts& facts);

/// Whether kernels compiled for one of `architectures` run on sm_<major><minor>.
bool has_kernels_for(const std::string& architectures, int major, int minor);

}  // namespace imp::cuda
