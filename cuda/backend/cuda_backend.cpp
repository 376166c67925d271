#include "backend/cuda_backend.h"

#include "backend/bf16_gemm.h"
#include "backend/device_facts.h"
#include "core/error.h"
#include "linear/dequantize.h"
#include "norm/elementwise.h"
#include "rope/qk_rope_kv.h"

namespace imp::cuda {
namespace {

constexpr int64_t kSmallStepTokens = 128;  // more than this, and only products in bf16 serve

/// cost_of() of args whose batch lies on the device.
OpCost cost_on_device(const AttentionArgs& args) {
  std::vector<int32_t> query_start(static_cast<size_t>(args.batch.num_sequences) + 1);
  check(cudaMemcpy(query_start.data(), args.batch.query_start, 4 * query_start.size(), cudaMemcpyDeviceToHost),
        "reading the batch");
  std::vector<int32_t> positions(static_cast<size_t>(query_start.back()));
  check(cudaMemcpy(positions.data(), args.batch.positions, 4 * positions.size(), cudaMemcpyDeviceToHost),
        "reading the batch");
  AttentionArgs on_host = args;
  on_host.batch.query_start = query_start.data();
  on_host.batch.positions = positions.data();
  return cost_of(on_host);
}

}  // namespace

void CudaBackend::embed(const EmbedArgs& args) {
  // A step's first kernel waits until all before it has ended, without the overlap that the others have: kernels of a
  // step may touch what earlier steps wrote (the KV cache above all) before they wait for anything in their own.
  LaunchContext whole = launch_;
  whole.pdl = false;
  embed_rows(args, whole);
  timed("embed", args);
}

void CudaBackend::rms_norm(const RmsNormArgs& args) {
  cuda::rms_norm(args, launch_);
  timed("rms_norm", args);
}

void CudaBackend::linear(const LinearArgs& args) {
  run_linear(linear_with_launch(), args, force_linear_);
  timed(op_class(args.role), args);
}

void CudaBackend::qk_rope_kv(const QkRopeKvArgs& args) {
  cuda::qk_rope_kv(args, static_cast<int>(args.q.cols / args.head_dim), launch_);
  timed("qk_rope_kv", args);
}

void CudaBackend::attention(const AttentionArgs& args) {
  attention_.launch = launch_;
  run_attention(attention_, nullptr, args);
  if (timer_) timer_->end_op("attention", [args] { return cost_on_device(args); }, launch_);
}

void CudaBackend::rope_attention(const QkRopeKvArgs& rope, const AttentionArgs& args) {
  attention_.launch = launch_;
  if (!rope_runs_in_attention(attention_, args)) return Backend::rope_attention(rope, args);
  run_attention(attention_, &rope, args);
  const auto cost = [args, before = cost_of(rope)] {
    const OpCost own = cost_on_device(args);
    return OpCost{before.bytes + own.bytes, before.flops + own.flops};
  };
  if (timer_) timer_->end_op("attention", cost, launch_);
}

void CudaBackend::softcap(const SoftcapArgs& args) {
  cuda::softcap(args, launch_);
  timed("softcap", args);
}

void CudaBackend::sample(const SampleArgs& args) {
  sampling_.sample(args, launch_);
  timed("sample", args);
}

void CudaBackend::upload(void* dst, const void* src, uint64_t bytes) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, launch_.stream), "copying to the device");
}

void CudaBackend::download(void* dst, const void* src, uint64_t bytes) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, launch_.stream), "copying from the device");
  check(cudaStreamSynchronize(launch_.stream), "waiting for the device");
}

void CudaBackend::copy_kv_block(const KvLayerView& cache, int from, int to) {
  const size_t bytes = sizeof(uint16_t) * static_cast<size_t>(cache.num_kv_heads * cache.block_size * cache.head_dim);
  for (void* tensor : {cache.k, cache.v}) {
    auto* blocks = static_cast<std::byte*>(tensor);
    check(cudaMemcpyAsync(blocks + static_cast<size_t>(to) * bytes, blocks + static_cast<size_t>(from) * bytes, bytes,
                          cudaMemcpyDeviceToDevice, launch_.stream),
          "copying a KV block");
  }
}

void CudaBackend::run_step(const StepShape& shape, const std::function<void()>& forward) {
  last_shape_ = shape;
  linear_.prompt = shape.max_query_len > 1;
  if (timer_) {
    timer_->begin_step(launch_);
    forward();
    return timer_->end_step(launch_);
  }
  const bool decode = shape.max_query_len == 1;
  if (!decode) return prefill_graphs_.takes(shape) ? prefill_graphs_.run(shape, launch_, forward) : forward();
  if (!graphs_.enabled()) return forward();
  graphs_.run(shape, launch_, forward);
}

DType CudaBackend::intermediate_dtype(int64_t tokens) const {
  return tokens >= (linear_.bf16 ? kBf16CopyTokens : kSmallStepTokens + 1) ? DType::bf16 : DType::f32;
}

int CudaBackend::planned_context(int max_context_len) const {
  if (attention_.switches.cublas_decode) return max_context_len;  // what is gathered; no graph is to serve longer ones
  int planned = 256;
  while (planned < max_context_len) planned *= 2;
  return planned;
}

std::vector<Verdict> CudaBackend::explain_linear(const LinearQuery& query) const {
  return linear_table().explain({.role = query.role,
                                 .format = query.format,
                                 .m = query.m,
                                 .n = query.n,
                                 .k = query.k,
                                 .max_shared_bytes = launch_.max_shared_bytes,
                                 .switches = linear_.switches,
                                 .fp8 = linear_.fp8 != nullptr,
                                 .bf16_copy = linear_.bf16 && !Bf16Weights::reject(query.role, query.format, query.k),
                                 .capability = linear_.capability,
                                 .gated = query.role == LinearRole::gate_up,
                                 .rows = query.role == LinearRole::gate_up ? 2 * query.n : query.n,
                                 .num_sms = launch_.num_sms});
}

std::vector<Verdict> CudaBackend::explain_attention(const AttentionQuery& query) const {
  return cuda::explain_attention(attention_, query);
}

GraphStats CudaBackend::graph_stats() const {
  GraphStats stats = graphs_.stats(launch_);
  stats.prefill_captures = prefill_graphs_.captures();
  stats.prefill_replays = prefill_graphs_.replays();
  stats.refusals.insert(stats.refusals.end(), prefill_graphs_.refusals().begin(), prefill_graphs_.refusals().end());
  return stats;
}

std::string CudaBackend::last_step() const {
  if (last_shape_.num_tokens == 0) return "no step ran";
  std::string kernels;
  for (const auto& [name, count] : launches_) kernels += cat(kernels.empty() ? "" : ", ", name);
  return cat("the step before was ", words_of(last_shape_), "; kernels in use: ", kernels);
}

}  // namespace imp::cuda

namespace imp {

std::unique_ptr<Backend> make_cuda_backend(const BackendOptions& options, int device) {
  const cuda::DeviceFacts facts = cuda::device_facts(device);
  if (const std::string reason = cuda::why_unusable(facts); !reason.empty()) {
    const bool wrong_index = facts.num_devices > 0 && (device < 0 || device >= facts.num_devices);
    fail(wrong_index ? ErrorCode::invalid_argument : ErrorCode::cuda, "cannot use CUDA device ", device, ": ", reason,
         "; use device \"cpu\"");
  }
  return std::make_unique<cuda::CudaBackend>(options, device);
}

}  // namespace imp
