#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "core/tensor_view.h"

namespace imp::cuda {

/// What the factors of a product are, and how their sums are kept.
enum class GemmInputs : uint8_t {
  bf16,        // fp32 sums
  f16,         // the same
  f16_f16acc,  // f16 sums and an f16 result: gemm.cublas_fp16_acc
  e4m3,        // fp32 sums, one fp32 scale a row of a and of w: attention.fp8_prefill
};

/// y[m, n] (+)= a[m, k] * w[n, k]^T; rows of a and w are k apart.
struct GemmCall {
  const void* a = nullptr;
  const void* w = nullptr;
  void* y = nullptr;
  int64_t m = 0, n = 0, k = 0;
  int64_t y_stride = 0;  // elements
  DType y_type = DType::f32;
  bool accumulate = false;
  GemmInputs inputs = GemmInputs::bf16;
  const float* a_scale = nullptr;  // of e4m3: [m], in device memory
  const float* w_scale = nullptr;  // [n]
};

/// Products through cuBLASLt, which is opened by name when first needed and never linked: a machine without it runs
/// everything else. Each shape's algorithm is chosen once and kept, for ranges of m.
class CublasLt {
 public:
  struct Options {
    bool deterministic = false;  // only algorithms that sum each element in one block; choices never depend on time
    bool log = false;            // diagnostics.log_gemm_algo: a line on stderr a shape
  };

  CublasLt() = default;
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  /// Opens the library and takes `workspace` (device memory) for its algorithms. unsupported error with the names
  /// tried.
  void open(void* workspace, size_t workspace_bytes, const Options& options);

  void gemm(const GemmCall& call, cudaStream_t stream);

  /// The largest of the m that share a choice with this one: 32 of them while few tokens make few tiles, else 256.
  static int64_t top_of_range(int64_t m);
  /// Asks the library for its choice for this product's range of m, so that no step has to: that takes 0.1 to 0.2 ms.
  void prepare(const GemmCall& call);

  /// Times the library's suggestions for this product (its operands' contents do not matter, y is overwritten) and
  /// keeps the fastest for it and for m that are nearer to its m than to another tuned one. Only at load; does nothing
  /// where choices must not depend on time.
  void tune(const GemmCall& call, cudaStream_t stream);

 private:
  struct Api;
  struct Algo {
    uint64_t data[8];
  };
  struct Candidate {
    Algo algo = {};
    size_t workspace_bytes = 0;
    float microseconds = 0;  // where it was timed
  };
  /// The library's descriptors are a few hundred bytes each and go with the process.
  struct Plan {
    void *desc, *a, *b, *d;
    Algo algo = {};
  };
  using ShapeKey = std::tuple<int64_t, int64_t, int64_t, DType, bool, GemmInputs, uint32_t>;  // n, k, y_stride, ...
  using PlanKey = std::pair<int64_t, ShapeKey>;                                               // m, ...

  ShapeKey key_of(const GemmCall& call) const;
  const Plan& plan_for(const GemmCall& call);
  Plan describe(const GemmCall& call) const;
  void set_scales(const Plan& plan, const GemmCall& call) const;
  std::vector<Candidate> suggestions(const Plan& plan, const GemmCall& call, uint32_t alignment) const;
  const Candidate* tuned(const GemmCall& call, const ShapeKey& key) const;
  bool runs(const Plan& plan, const Candidate& candidate) const;
  const Candidate& suggested(const GemmCall& call, const ShapeKey& key);
  void run(const Plan& plan, const GemmCall& call, cudaStream_t stream) const;
  void log_choice(const GemmCall& call, const std::vector<Candidate>& candidates, const Candidate& chosen) const;

  Api* api_ = nullptr;
  void* handle_ = nullptr;
  void* workspace_ = nullptr;
  size_t workspace_bytes_ = 0;
  Options options_;
  std::map<PlanKey, Plan> plans_;
  std::map<ShapeKey, std::map<int64_t, Candidate>> tuned_;  // by m
  std::map<PlanKey, Candidate> suggested_;                  // by the largest m of a range
};

}  // namespace imp::cuda
