#pragma once

namespace imp::cuda {

/// Programmatic dependent launch, device half. wait(): everything the kernels before wrote is visible after it; call it
/// before the first access to anything another kernel writes. trigger(): the next kernel may start its prologue. Both
/// do nothing in a kernel that was launched without the attribute.
__device__ __forceinline__ void pdl_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void pdl_trigger() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace imp::cuda
