#pragma once
#include <cstdint>

#include "model/spec.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// y[t, n] (+)= sum_k x[t, k] * w[n, k] of a short prompt, w bf16; gated: y[t, n] = activation(gate) * up, where w has
/// rows / 2 rows of the gate and then as many of the up.
struct StreamGemmArgs {
  const void* x = nullptr;  // [tokens, cols] bf16, aligned to 16 bytes
  int tokens = 0;           // at most kStreamMaxTokens
  const void* w = nullptr;  // [rows, cols] bf16, aligned to 16 bytes
  int rows = 0, cols = 0;
  void* y = nullptr;        // fp32 or bf16, pairs aligned
  int64_t y_stride = 0;     // elements; even
  bool accumulate = false;  // fp32 alone
  bool gated = false, bf16_out = false;
  Activation activation = Activation::silu;
  float* partial = nullptr;  // scratch of partial_bytes, aligned to 16 bytes
  int64_t partial_bytes = 0;
  int32_t* counters = nullptr;  // num_counters, zero before the first launch; every launch leaves them zero
  int num_counters = 0;
};
inline constexpr int kStreamMaxTokens = 128;

/// How a product is cut up: tiles of 64 * groups rows, each along k into `splits` parts. 0 splits: none is good.
struct StreamPlan {
  int groups = 0, splits = 0;
  double busy = 0;  // share of the multiprocessors' time that has work
};
StreamPlan plan_stream_gemm(int64_t rows, int64_t cols, int num_sms);

/// sm_90a only. `plan` is another than plan_stream_gemm()'s for tests and measurements.
void gemm_stream(const StreamGemmArgs& args, const LaunchContext& context, const StreamPlan* plan = nullptr);

}  // namespace imp::cuda
