#pragma once
#include "ops/args.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// See RmsNormArgs. One block a row; sums in fp32. Bytes moved: 2 to 3 rows of fp32.
void rms_norm(const RmsNormArgs& args, const LaunchContext& context);

/// See SoftcapArgs.
void softcap(const SoftcapArgs& args, const LaunchContext& context);

/// out[t, :] = bf16 of rms_norm(x[row(t)]) (of x[row(t)] where norm_weight is null). row(t) = row_indices[t] or t.
struct ToBf16Args {
  const void* x;  // of x_type: f32 or bf16
  int64_t x_stride;
  const int32_t* row_indices;
  const float* norm_weight;
  float norm_epsilon;
  int tokens;
  int cols;
  void* out;  // [tokens, cols] of out_type
  DType x_type = DType::f32;
  DType out_type = DType::bf16;  // or f16
};
void to_bf16(const ToBf16Args& args, const LaunchContext& context);

/// y[t, c] = activation(gate[t, c] (+ gate_bias)) * (up[t, c] (+ up_bias)).
struct GatedArgs {
  const void* gate;  // of in_type, rows in_stride apart
  const void* up;
  int64_t in_stride;
  DType in_type;  // f32, f16, or bf16 where y_type is
  const float* gate_bias;
  const float* up_bias;
  void* y;
  DType y_type;  // f32 or bf16
  int64_t y_stride;
  int tokens;
  int cols;
  Activation activation;
};
void gated_activation(const GatedArgs& args, const LaunchContext& context);

/// y[t, c] (+)= x[t, c], x in f16 with rows x_stride apart.
void f16_to_rows(const void* x, int64_t x_stride, float* y, int64_t y_stride, int tokens, int cols, bool accumulate,
                 const LaunchContext& context);

/// y[t, c] += bias[c]
void add_bias(float* y, int64_t y_stride, const float* bias, int tokens, int cols, const LaunchContext& context);

}  // namespace imp::cuda
