#include "runtime/check.h"

#include "core/error.h"

namespace imp::cuda {

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  const ErrorCode code = status == cudaErrorMemoryAllocation ? ErrorCode::out_of_memory : ErrorCode::cuda;
  fail(code, call, ": ", cudaGetErrorName(status), ": ", cudaGetErrorString(status));
}

void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

}  // namespace imp::cuda
