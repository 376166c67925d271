#include "runtime/check.h"

#include "core/error.h"

namespace imp::cuda {

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  const ErrorCode code = status == cudaErrorMemoryAllocation ? ErrorCode::out_of_memory : ErrorCode::cuda;
  fail(code, call, ": ", cudaGetErrorName(status), ": ", cudaGetErrorString(status), advice(status));
}

void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

bool is_sticky(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorDeviceUninitialized:
    case cudaErrorContextIsDestroyed:
    case cudaErrorCudartUnloading:
    case cudaErrorUnknown: return true;
    default: return false;
  }
}

std::string advice(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return "; close other programs that use the GPU, or lower the memory budget, runtime.max_seq_len or "
             "runtime.max_batch_size";
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorDeviceUninitialized:
    case cudaErrorUnknown:
      return "; the device itself failed: look at nvidia-smi and the system's log, and start a new process";
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction: return "; this build has no kernels for the device: imp doctor says which";
    default: break;
  }
  if (!is_sticky(status)) return "";
  return "; the device is lost to this process: start a new one. With runtime.debug_raw = true each kernel is waited "
         "for, and the error names the one that failed";
}

}  // namespace imp::cuda
