#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <string>
#include <tuple>

namespace imp::cuda {

/// y[m, n] (+)= a[m, k] * w[n, k]^T in bf16 with fp32 sums, through cuBLASLt, which is opened by name when first needed
/// and never linked: a machine without it runs everything else.
class CublasLt {
 public:
  CublasLt() = default;
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  /// Opens the library and takes `workspace` (device memory) for its algorithms. unsupported error with the names
  /// tried.
  void open(void* workspace, size_t workspace_bytes, bool deterministic);

  /// y is fp32 with row stride `y_stride`. The first call of a shape chooses an algorithm.
  void gemm_bf16(const void* a, const void* w, float* y, int64_t m, int64_t n, int64_t k, int64_t y_stride,
                 bool accumulate, cudaStream_t stream);

 private:
  struct Api;
  struct Plan;
  const Plan& plan_for(int64_t m, int64_t n, int64_t k, int64_t y_stride, uint32_t alignment);

  Api* api_ = nullptr;
  void* handle_ = nullptr;
  void* workspace_ = nullptr;
  size_t workspace_bytes_ = 0;
  bool deterministic_ = false;
  std::map<std::tuple<int64_t, int64_t, int64_t, int64_t, uint32_t>, Plan*> plans_;
};

}  // namespace imp::cuda
