#include "runtime/cublaslt.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "core/error.h"
#include "runtime/check.h"

namespace imp::cuda {
namespace {

// What imp needs of cublasLt.h, so that building takes no cuBLAS. Values are those of its ABI, stable since version 11.
using Handle = void*;
using Desc = void*;
constexpr int kCompute16F = 64, kCompute32F = 68;
constexpr int kReal32F = 0, kReal16F = 2, kReal16BF = 14, kRealE4M3 = 28;
constexpr int kDescTransA = 3, kDescScaleA = 17, kDescScaleB = 18, kDescScaleModeA = 31, kDescScaleModeB = 32;
constexpr int kOpTranspose = 1, kScalePerRow = 3;
constexpr int kPreferWorkspaceBytes = 1, kPreferReductionMask = 3, kPreferAlignment = 5;  // of A, B, C, D: 5 to 8
constexpr int kAlgoId = 0, kAlgoTile = 1, kAlgoSplitK = 2, kAlgoReduction = 3, kAlgoStages = 6;
constexpr uint32_t kReductionNone = 0;
constexpr int kMaxSuggestions = 8;
struct Heuristic {
  uint64_t algo[8];
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};

// The Python package opens that of pip before (python/imp/_cublas.py); its name then means that one.
constexpr const char* kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so",
                                  "/usr/local/cuda/lib64/libcublasLt.so.13", "/usr/local/cuda/lib64/libcublasLt.so.12"};

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
  int (*algo_check)(Handle, Desc, Desc, Desc, Desc, Desc, const Algo*, Heuristic*);
  int (*algo_get)(const Algo*, int, void*, size_t, size_t*);
  int (*matmul)(Handle, Desc, const void*, const void*, Desc, const void*, Desc, const void*, const void*, Desc, void*,
                Desc, const Algo*, void*, size_t, cudaStream_t);

  template <class Function>
  void find(Function& function, const char* name) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    if (!function) fail(ErrorCode::unsupported, "cuBLASLt has no ", name, "; a version from CUDA 12 or 13 is needed");
  }
  int config(const Algo& algo, int attribute) const {
    int value = -1;
    size_t written = 0;
    return algo_get(&algo, attribute, &value, sizeof value, &written) == 0 ? value : -1;
  }
};

namespace {

void check_lt(int status, const char* call) {
  if (status != 0) fail(ErrorCode::cuda, call, " failed with cuBLAS status ", status);
}

/// An algorithm may rely on the alignment that it was promised.
uint32_t alignment_of(const GemmCall& call) {
  const auto addresses =
      reinterpret_cast<uintptr_t>(call.a) | reinterpret_cast<uintptr_t>(call.w) | reinterpret_cast<uintptr_t>(call.y);
  return static_cast<uint32_t>(std::min<uintptr_t>(256, addresses & (~addresses + 1)));
}

int input_type(GemmInputs inputs) {
  return inputs == GemmInputs::bf16 ? kReal16BF : inputs == GemmInputs::e4m3 ? kRealE4M3 : kReal16F;
}
int output_type(DType type) { return type == DType::f32 ? kReal32F : type == DType::bf16 ? kReal16BF : kReal16F; }
const char* name_of(GemmInputs inputs) {
  switch (inputs) {
    case GemmInputs::bf16: return "bf16";
    case GemmInputs::f16: return "f16";
    case GemmInputs::f16_f16acc: return "f16 with f16 sums";
    case GemmInputs::e4m3: return "e4m3";
  }
  return "?";
}
const char* name_of(DType type) { return type == DType::f32 ? "f32" : type == DType::bf16 ? "bf16" : "f16"; }

}  // namespace

void CublasLt::open(void* workspace, size_t workspace_bytes, const Options& options) {
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
  api->find(api->algo_check, "cublasLtMatmulAlgoCheck");
  api->find(api->algo_get, "cublasLtMatmulAlgoConfigGetAttribute");
  api->find(api->matmul, "cublasLtMatmul");
  check_lt(api->create(&handle_), "cublasLtCreate");
  api_ = api.release();
  workspace_ = workspace;
  workspace_bytes_ = workspace_bytes;
  options_ = options;
}

CublasLt::~CublasLt() {
  if (api_ && handle_) api_->destroy(handle_);
  delete api_;
}

CublasLt::ShapeKey CublasLt::key_of(const GemmCall& call) const {
  return {call.n, call.k, call.y_stride, call.y_type, call.accumulate, call.inputs, alignment_of(call)};
}

// cuBLAS counts columns first: our row-major y[m, n] is its D[n, m], w[n, k] its A (transposed), a[m, k] its B.
CublasLt::Plan CublasLt::describe(const GemmCall& call) const {
  Plan plan;
  const bool f16_sums = call.inputs == GemmInputs::f16_f16acc;
  check_lt(api_->desc_create(&plan.desc, f16_sums ? kCompute16F : kCompute32F, f16_sums ? kReal16F : kReal32F),
           "cublasLtMatmulDescCreate");
  check_lt(api_->desc_set(plan.desc, kDescTransA, &kOpTranspose, sizeof kOpTranspose),
           "cublasLtMatmulDescSetAttribute");
  if (call.inputs == GemmInputs::e4m3) {
    for (const int attribute : {kDescScaleModeA, kDescScaleModeB}) {
      if (api_->desc_set(plan.desc, attribute, &kScalePerRow, sizeof kScalePerRow) != 0)
        fail(ErrorCode::unsupported, "this cuBLASLt has no fp8 products with a scale a row; version 12.9 or later has");
    }
    set_scales(plan, call);
  }
  const int type = input_type(call.inputs);
  check_lt(api_->layout_create(&plan.a, type, call.k, call.n, call.k), "cublasLtMatrixLayoutCreate");
  check_lt(api_->layout_create(&plan.b, type, call.k, call.m, call.k), "cublasLtMatrixLayoutCreate");
  check_lt(api_->layout_create(&plan.d, output_type(call.y_type), call.n, call.m, call.y_stride),
           "cublasLtMatrixLayoutCreate");
  return plan;
}

void CublasLt::set_scales(const Plan& plan, const GemmCall& call) const {
  check_lt(api_->desc_set(plan.desc, kDescScaleA, &call.w_scale, sizeof call.w_scale),
           "cublasLtMatmulDescSetAttribute");
  check_lt(api_->desc_set(plan.desc, kDescScaleB, &call.a_scale, sizeof call.a_scale),
           "cublasLtMatmulDescSetAttribute");
}

/// What the library suggests, its best guess first; never one that needs more workspace than there is, and in
/// deterministic mode none that adds up parts of a sum in another kernel or block.
std::vector<CublasLt::Candidate> CublasLt::suggestions(const Plan& plan, const GemmCall& call,
                                                       uint32_t alignment) const {
  Desc preference;
  check_lt(api_->preference_create(&preference), "cublasLtMatmulPreferenceCreate");
  check_lt(api_->preference_set(preference, kPreferWorkspaceBytes, &workspace_bytes_, sizeof workspace_bytes_),
           "cublasLtMatmulPreferenceSetAttribute");
  for (int operand = 0; operand < 4; ++operand)
    check_lt(api_->preference_set(preference, kPreferAlignment + operand, &alignment, sizeof alignment),
             "cublasLtMatmulPreferenceSetAttribute");
  if (options_.deterministic)
    check_lt(api_->preference_set(preference, kPreferReductionMask, &kReductionNone, sizeof kReductionNone),
             "cublasLtMatmulPreferenceSetAttribute");
  Heuristic found[kMaxSuggestions];
  int count = 0;
  const int status =
      api_->heuristic(handle_, plan.desc, plan.a, plan.b, plan.d, plan.d, preference, kMaxSuggestions, found, &count);
  api_->preference_destroy(preference);
  std::vector<Candidate> candidates;
  for (int i = 0; status == 0 && i < count; ++i) {
    Candidate candidate{.workspace_bytes = found[i].workspace_bytes};
    std::copy_n(found[i].algo, std::size(found[i].algo), candidate.algo.data);
    const bool splits =
        api_->config(candidate.algo, kAlgoSplitK) > 1 || api_->config(candidate.algo, kAlgoReduction) > 0;
    if (found[i].state != 0 || found[i].workspace_bytes > workspace_bytes_ || (options_.deterministic && splits))
      continue;
    candidates.push_back(candidate);
  }
  if (candidates.empty())
    fail(ErrorCode::unsupported, "cuBLASLt has no algorithm for m=", call.m, " n=", call.n, " k=", call.k, " (",
         name_of(call.inputs), " to ", name_of(call.y_type), ", status ", status, ")");
  return candidates;
}

/// The timed choice for the nearest m (in ratio), where there is one.
const CublasLt::Candidate* CublasLt::tuned(const GemmCall& call, const ShapeKey& key) const {
  const auto of_shape = tuned_.find(key);
  if (of_shape == tuned_.end()) return nullptr;
  const Candidate* nearest = nullptr;
  int64_t best = 0;
  for (const auto& [m, candidate] : of_shape->second) {
    const int64_t ratio = 16 * std::max(m, call.m) / std::min(m, call.m);
    if (!nearest || ratio < best) nearest = &candidate, best = ratio;
  }
  return best <= 24 ? nearest : nullptr;  // at most half as many again, or two thirds
}

int64_t CublasLt::top_of_range(int64_t m) {
  const int64_t width = m <= 512 ? 32 : 256;
  return (m + width - 1) / width * width;
}

/// Whether a choice for another m runs this one.
bool CublasLt::runs(const Plan& plan, const Candidate& candidate) const {
  Heuristic result = {};
  return api_->algo_check(handle_, plan.desc, plan.a, plan.b, plan.d, plan.d, &candidate.algo, &result) == 0 &&
         result.workspace_bytes <= workspace_bytes_;
}

/// The library's first suggestion for the largest m of this one's range. Prompts have many lengths, and asking the
/// library takes longer than a launch; and whichever length comes first, the choice is the same.
const CublasLt::Candidate& CublasLt::suggested(const GemmCall& call, const ShapeKey& key) {
  GemmCall largest = call;
  largest.m = top_of_range(call.m);
  const auto known = suggested_.find({largest.m, key});
  if (known != suggested_.end()) return known->second;
  const Plan plan = describe(largest);
  return suggested_.emplace(PlanKey{largest.m, key}, suggestions(plan, largest, alignment_of(call)).front())
      .first->second;
}

const CublasLt::Plan& CublasLt::plan_for(const GemmCall& call) {
  const ShapeKey key = key_of(call);
  const auto known = plans_.find({call.m, key});
  if (known != plans_.end()) return known->second;
  Plan plan = describe(call);
  const Candidate* timed = tuned(call, key);
  Candidate chosen = timed && runs(plan, *timed) ? *timed : suggested(call, key);
  if (!runs(plan, chosen)) chosen = suggestions(plan, call, alignment_of(call)).front();
  plan.algo = chosen.algo;
  if (options_.log) log_choice(call, suggestions(plan, call, alignment_of(call)), chosen);
  return plans_.emplace(PlanKey{call.m, key}, plan).first->second;
}

void CublasLt::prepare(const GemmCall& call) { suggested(call, key_of(call)); }

void CublasLt::tune(const GemmCall& call, cudaStream_t stream) {
  if (options_.deterministic) return;
  Plan plan = describe(call);
  constexpr int kRuns = 3;
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "cudaEventCreate");
  check(cudaEventCreate(&end), "cudaEventCreate");
  const Candidate* best = nullptr;
  std::vector<Candidate> candidates = suggestions(plan, call, alignment_of(call));
  for (Candidate& candidate : candidates) {
    plan.algo = candidate.algo;
    run(plan, call, stream);  // its code may have to be loaded
    check(cudaEventRecord(begin, stream), "cudaEventRecord");
    for (int i = 0; i < kRuns; ++i) run(plan, call, stream);
    check(cudaEventRecord(end, stream), "cudaEventRecord");
    check(cudaEventSynchronize(end), "timing a product");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    candidate.microseconds = milliseconds * 1000 / kRuns;
    if (!best || candidate.microseconds < best->microseconds) best = &candidate;
  }
  check(cudaEventDestroy(begin), "cudaEventDestroy");
  check(cudaEventDestroy(end), "cudaEventDestroy");
  tuned_[key_of(call)].insert_or_assign(call.m, *best);
  if (options_.log) log_choice(call, candidates, *best);
}

void CublasLt::log_choice(const GemmCall& call, const std::vector<Candidate>& candidates,
                          const Candidate& chosen) const {
  const auto describe_algo = [&](const Candidate& candidate) {
    std::string text = cat(
        "id=", api_->config(candidate.algo, kAlgoId), " tile=", api_->config(candidate.algo, kAlgoTile),
        " stages=", api_->config(candidate.algo, kAlgoStages), " splitk=", api_->config(candidate.algo, kAlgoSplitK),
        " reduction=", api_->config(candidate.algo, kAlgoReduction), " workspace=", candidate.workspace_bytes);
    if (candidate.microseconds > 0) text += cat(" us=", candidate.microseconds);
    return text;
  };
  std::string line =
      cat("imp: gemm m=", call.m, " n=", call.n, " k=", call.k, " ", name_of(call.inputs), " to ", name_of(call.y_type),
          call.accumulate ? " +=" : "", ": ", describe_algo(chosen), "; of ", candidates.size(), ":");
  for (const Candidate& candidate : candidates) line += cat(" [", describe_algo(candidate), "]");
  std::fprintf(stderr, "%s\n", line.c_str());
}

void CublasLt::run(const Plan& plan, const GemmCall& call, cudaStream_t stream) const {
  if (call.inputs == GemmInputs::e4m3) set_scales(plan, call);
  const float one = 1, beta = call.accumulate ? 1 : 0;
  const uint16_t half_one = 0x3c00, half_beta = call.accumulate ? 0x3c00 : 0;
  const bool f16_sums = call.inputs == GemmInputs::f16_f16acc;
  check_lt(api_->matmul(handle_, plan.desc, f16_sums ? static_cast<const void*>(&half_one) : &one, call.w, plan.a,
                        call.a, plan.b, f16_sums ? static_cast<const void*>(&half_beta) : &beta, call.y, plan.d, call.y,
                        plan.d, &plan.algo, workspace_, workspace_bytes_, stream),
           "cublasLtMatmul");
}

void CublasLt::gemm(const GemmCall& call, cudaStream_t stream) { run(plan_for(call), call, stream); }

}  // namespace imp::cuda
