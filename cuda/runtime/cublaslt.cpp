#include "runtime/cublaslt.h"

#include <dlfcn.h>

#include <algorithm>
#include <memory>

#include "core/error.h"

namespace imp::cuda {
namespace {

// What imp needs of cublasLt.h, so that building takes no cuBLAS. Values are those of its ABI, stable since version 11.
using Handle = void*;
using Desc = void*;
constexpr int kCompute32F = 68, kReal32F = 0, kReal16BF = 14;
constexpr int kDescTransA = 3, kOpTranspose = 1;
constexpr int kPreferWorkspaceBytes = 1, kPreferReductionMask = 3, kPreferAlignment = 5;  // of A, B, C, D: 5 to 8
constexpr int kReductionNone = 0;
struct Algo {
  uint64_t data[8];
};
struct Heuristic {
  Algo algo;
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};

constexpr const char* kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};

}  // namespace

struct CublasLt::Api {
  void* library = nullptr;
  int (*create)(Handle*);
  int (*destroy)(Handle);
  int (*desc_create)(Desc*, int, int);
  int (*desc_set)(Desc, int, const void*, size_t);
  int (*layout_create)(Desc*, int, uint64_t, uint64_t, int64_t);
  int (*preference_create)(Desc*);
  int (*preference_set)(Desc, int, const void*, size_t);
  int (*preference_destroy)(Desc);
  int (*heuristic)(Handle, Desc, Desc, Desc, Desc, Desc, Desc, int, Heuristic*, int*);
  int (*matmul)(Handle, Desc, const void*, const void*, Desc, const void*, Desc, const void*, const void*, Desc, void*,
                Desc, const Algo*, void*, size_t, cudaStream_t);

  template <class Function>
  void find(Function& function, const char* name) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    if (!function) fail(ErrorCode::unsupported, "cuBLASLt has no ", name, "; a version from CUDA 12 or 13 is needed");
  }
};

struct CublasLt::Plan {
  Desc desc, a, b, d;
  Algo algo;
  size_t workspace_bytes;
};

namespace {

void check_lt(int status, const char* call) {
  if (status != 0) fail(ErrorCode::cuda, call, " failed with cuBLAS status ", status);
}

}  // namespace

void CublasLt::open(void* workspace, size_t workspace_bytes, bool deterministic) {
  auto api = std::make_unique<Api>();
  std::string tried;
  for (const char* name : kNames) {
    api->library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (api->library) break;
    tried += cat(tried.empty() ? "" : ", ", name);
  }
  if (!api->library)
    fail(ErrorCode::unsupported, "prefill on the GPU needs cuBLASLt, and none was found (", tried,
         "); install the CUDA toolkit's library, or: pip install nvidia-cublas");
  api->find(api->create, "cublasLtCreate");
  api->find(api->destroy, "cublasLtDestroy");
  api->find(api->desc_create, "cublasLtMatmulDescCreate");
  api->find(api->desc_set, "cublasLtMatmulDescSetAttribute");
  api->find(api->layout_create, "cublasLtMatrixLayoutCreate");
  api->find(api->preference_create, "cublasLtMatmulPreferenceCreate");
  api->find(api->preference_set, "cublasLtMatmulPreferenceSetAttribute");
  api->find(api->preference_destroy, "cublasLtMatmulPreferenceDestroy");
  api->find(api->heuristic, "cublasLtMatmulAlgoGetHeuristic");
  api->find(api->matmul, "cublasLtMatmul");
  check_lt(api->create(&handle_), "cublasLtCreate");
  api_ = api.release();
  workspace_ = workspace;
  workspace_bytes_ = workspace_bytes;
  deterministic_ = deterministic;
}

CublasLt::~CublasLt() {
  for (auto& [shape, plan] : plans_) delete plan;  // descriptors are a few hundred bytes and go with the process
  if (api_ && handle_) api_->destroy(handle_);
  delete api_;
}

// cuBLAS counts columns first: our row-major y[m, n] is its D[n, m], w[n, k] its A (transposed), a[m, k] its B.
const CublasLt::Plan& CublasLt::plan_for(int64_t m, int64_t n, int64_t k, int64_t y_stride, uint32_t alignment) {
  const auto shape = std::make_tuple(m, n, k, y_stride, alignment);
  if (const auto known = plans_.find(shape); known != plans_.end()) return *known->second;
  auto plan = std::make_unique<Plan>();
  check_lt(api_->desc_create(&plan->desc, kCompute32F, kReal32F), "cublasLtMatmulDescCreate");
  check_lt(api_->desc_set(plan->desc, kDescTransA, &kOpTranspose, sizeof kOpTranspose),
           "cublasLtMatmulDescSetAttribute");
  check_lt(api_->layout_create(&plan->a, kReal16BF, k, n, k), "cublasLtMatrixLayoutCreate");
  check_lt(api_->layout_create(&plan->b, kReal16BF, k, m, k), "cublasLtMatrixLayoutCreate");
  check_lt(api_->layout_create(&plan->d, kReal32F, n, m, y_stride), "cublasLtMatrixLayoutCreate");
  Desc preference;
  check_lt(api_->preference_create(&preference), "cublasLtMatmulPreferenceCreate");
  check_lt(api_->preference_set(preference, kPreferWorkspaceBytes, &workspace_bytes_, sizeof workspace_bytes_),
           "cublasLtMatmulPreferenceSetAttribute");
  for (int operand = 0; operand < 4; ++operand)
    check_lt(api_->preference_set(preference, kPreferAlignment + operand, &alignment, sizeof alignment),
             "cublasLtMatmulPreferenceSetAttribute");
  if (deterministic_) {
    const uint32_t mask = kReductionNone;
    check_lt(api_->preference_set(preference, kPreferReductionMask, &mask, sizeof mask),
             "cublasLtMatmulPreferenceSetAttribute");
  }
  Heuristic found;
  int count = 0;
  const int status =
      api_->heuristic(handle_, plan->desc, plan->a, plan->b, plan->d, plan->d, preference, 1, &found, &count);
  api_->preference_destroy(preference);
  if (status != 0 || count == 0)
    fail(ErrorCode::unsupported, "cuBLASLt has no algorithm for m=", m, " n=", n, " k=", k, " (status ", status, ")");
  plan->algo = found.algo;
  plan->workspace_bytes = found.workspace_bytes;
  return *(plans_[shape] = plan.release());
}

void CublasLt::gemm_bf16(const void* a, const void* w, float* y, int64_t m, int64_t n, int64_t k, int64_t y_stride,
                         bool accumulate, cudaStream_t stream) {
  // An algorithm may rely on the alignment that it was promised.
  const auto addresses =
      reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(w) | reinterpret_cast<uintptr_t>(y);
  const auto alignment = static_cast<uint32_t>(std::min<uintptr_t>(256, addresses & (~addresses + 1)));
  const Plan& plan = plan_for(m, n, k, y_stride, alignment);
  const float alpha = 1, beta = accumulate ? 1 : 0;
  check_lt(api_->matmul(handle_, plan.desc, &alpha, w, plan.a, a, plan.b, &beta, y, plan.d, y, plan.d, &plan.algo,
                        workspace_, workspace_bytes_, stream),
           "cublasLtMatmul");
}

}  // namespace imp::cuda
