#pragma once
#include <cuda_runtime_api.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "backend/attention_ops.h"
#include "backend/device_memory.h"
#include "backend/linear_ops.h"
#include "backend/prefill_graphs.h"
#include "backend/prefill_weights.h"
#include "backend/sampling_ops.h"
#include "backend/step_graphs.h"
#include "backend/weight_upload.h"
#include "exec/backend.h"
#include "runtime/op_timer.h"

namespace imp::cuda {

/// One device. What happens once, at load, is in cuda_backend_load.cpp; what steps do, in cuda_backend.cpp.
class CudaBackend final : public Backend {
 public:
  CudaBackend(const BackendOptions& options, int device);
  ~CudaBackend() override;

  std::string_view name() const override { return "cuda"; }
  std::string device_name() const override;
  uint64_t total_memory_bytes() const override { return properties_.totalGlobalMem; }  // also after a failure
  uint64_t free_memory_bytes() const override { return memory_info().first; }
  bool memory_is_host() const override { return false; }
  void* allocate_host(uint64_t bytes) override;

  void* allocate(uint64_t bytes, MemoryTag tag) override;
  std::map<MemoryTag, uint64_t> memory_by_tag() const override { return memory_by_tag_; }

  uint64_t prepared_bytes(const TensorInfo& tensor) const override;
  uint64_t workspace_bytes(const StepLimits& limits, const ModelSpec& spec) const override;
  uint64_t prefill_copy_bytes(const ModelTensors& tensors) const override;
  void begin_load(const ModelSpec& spec) override;

  WeightView prepare_weight(const TensorInfo& tensor, LinearRole role) override;
  const float* prepare_vector(const TensorInfo& tensor) override;
  void finish_weights() override;
  int32_t preferred_step_tokens() const override { return 4096; }
  DType intermediate_dtype(int64_t tokens) const override;
  WeightView prepare_head(const WeightView& head) override;
  void finish_load(const StepLimits& limits) override;
  ImmaScratch allocate_imma_scratch(const StepLimits& limits);
  int planned_context(int max_context_len) const override;
  void run_step(const StepShape& shape, const std::function<void()>& forward) override;
  std::vector<std::string> without_effect(const Settings& settings) const override;
  std::string last_step() const override;
  GraphStats graph_stats() const override;

  void embed(const EmbedArgs& args) override;
  void rms_norm(const RmsNormArgs& args) override;
  void linear(const LinearArgs& args) override;
  void qk_rope_kv(const QkRopeKvArgs& args) override;
  void attention(const AttentionArgs& args) override;
  void rope_attention(const QkRopeKvArgs& rope, const AttentionArgs& args) override;
  void softcap(const SoftcapArgs& args) override;

  void sample(const SampleArgs& args) override;
  bool draws_tokens() const override { return properties_.major >= 9; }  // a cluster of blocks shares a row
  void mark(int slot) override { sampling_.mark(slot, launch_); }
  void wait(int slot) override { sampling_.wait(slot); }

  void upload(void* dst, const void* src, uint64_t bytes) override;
  void download(void* dst, const void* src, uint64_t bytes) override;
  void copy_kv_block(const KvLayerView& cache, int from, int to) override;

  std::vector<Verdict> explain_linear(const LinearQuery& query) const override;
  std::vector<Verdict> explain_attention(const AttentionQuery& query) const override;
  std::map<std::string, int64_t> launches() const override { return launches_; }
  std::map<std::string, OpProfile> profile() const override {
    return timer_ ? timer_->figures() : std::map<std::string, OpProfile>{};
  }

 private:
  const LinearContext& linear_with_launch() {
    linear_.launch = launch_;
    return linear_;
  }
  WeightUpload& upload_of_weights();
  /// After an op was called.
  template <class Args>
  void timed(std::string_view op, const Args& args) {
    if (timer_) timer_->end_op(op, [cost = cost_of(args)] { return cost; }, launch_);
  }
  std::pair<uint64_t, uint64_t> memory_info() const;

  int device_;
  cudaDeviceProp properties_ = {};
  LaunchContext launch_;
  std::map<std::string, int64_t> launches_;
  int64_t pdl_launches_ = 0;
  std::string force_linear_;
  bool log_gemm_algo_ = false;
  bool fp8_prefill_ = false;
  bool deterministic_ = false, lm_dequant_fp16_ = false;
  StepShape last_shape_;
  std::unique_ptr<OpTimer> timer_;  // diagnostics.profile

  std::vector<DeviceMemory> memory_;
  std::vector<std::unique_ptr<PinnedMemory>> pinned_;
  std::map<MemoryTag, uint64_t> memory_by_tag_;
  std::map<const void*, WeightView> prepared_;   // by the file's bytes: a tied head is one weight
  std::unique_ptr<WeightUpload> weight_upload_;  // while weights are loaded
  int64_t max_cols_ = 0, max_intermediate_ = 0;

  CublasLt cublaslt_;
  PrefillWeights prefill_weights_;
  Bf16Weights bf16_;
  Fp8Weights fp8_;
  LinearContext linear_ = {};
  AttentionContext attention_ = {};
  AttentionPlan attention_plan_;
  SamplingOps sampling_;
  StepGraphs graphs_;
  PrefillGraphs prefill_graphs_{nullptr};
};

}  // namespace imp::cuda
