#pragma once
#include <cuda_runtime_api.h>

#include "linear/packed_weight.h"
#include "runtime/launch.h"

namespace imp::cuda {

inline constexpr int kGemvMaxTokens = 8;

struct GemvOutput {
  PackedView weight;
  const float* bias;  // [rows] or null
  float* y;           // [tokens, rows]
  int64_t y_stride;   // elements
  float scale;        // of the whole weight
};

/// y_i[t, :] (+)= h[t, :] * W_i^T + bias_i with h = rms_norm(x) or x, at most kGemvMaxTokens tokens; or with `gated`
/// two weights of equal size and y_0 = activation(g) * u. h is quantised to int8 per 32 values in every block; sums are
/// int32 within 32 weights and fp32 across them, in an order that depends on shapes alone.
struct GemvArgs {
  const float* x;              // [*, cols]
  int64_t x_stride;            // elements
  const int32_t* row_indices;  // [tokens] or null
  const float* norm_weight;    // [cols] or null
  float norm_epsilon;
  int tokens;
  GemvOutput outputs[3];
  int num_outputs;
  bool accumulate;
  bool gated;
  Activation activation;
};

/// All outputs share `layout`. Bytes moved: the packed weights. Oracle: cpp/reference/linear.cpp.
void gemv_dp4a(PackedLayout layout, const GemvArgs& args, const LaunchContext& context);

int gemv_dp4a_shared_bytes(int cols, int tokens);

/// The same over fp32, f16 or bf16 rows (PackedLayout::kRows), whose length is a multiple of 16 bytes; h stays fp32.
void gemv_rows(WeightFormat format, const GemvArgs& args, const LaunchContext& context);
int gemv_rows_shared_bytes(WeightFormat format, int cols, int tokens);

/// Row groups of all outputs together; a group has rows_per_group rows of one output (gated: half as many of both).
inline int gemv_groups(const GemvArgs& args, int rows_per_group) {
  if (args.gated) return (args.outputs[0].weight.rows + rows_per_group / 2 - 1) / (rows_per_group / 2);
  int groups = 0;
  for (int i = 0; i < args.num_outputs; ++i)
    groups += (args.outputs[i].weight.rows + rows_per_group - 1) / rows_per_group;
  return groups;
}

}  // namespace imp::cuda
