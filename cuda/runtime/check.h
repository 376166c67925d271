#pragma once
#include <cuda_runtime_api.h>

namespace imp::cuda {

/// Throws Error{cuda} (or out_of_memory) naming `call` where `status` is not success.
void check(cudaError_t status, const char* call);

/// Throws what the launch just made left behind. Every launcher ends with it.
void check_launch(const char* kernel);

}  // namespace imp::cuda
