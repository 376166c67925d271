#pragma once
#include <cuda_runtime_api.h>

#include <string>

namespace imp::cuda {

/// Throws Error{cuda} (or out_of_memory) naming `call` where `status` is not success, with what can be done about it.
void check(cudaError_t status, const char* call);

/// Throws what the launch just made left behind. Every launcher ends with it.
void check_launch(const char* kernel);

/// Whether the device gives nothing but this error to this process from now on.
bool is_sticky(cudaError_t status);

/// What to do about an error, or "".
std::string advice(cudaError_t status);

}  // namespace imp::cuda
