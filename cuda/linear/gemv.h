#pragma once
#include <cuda_runtime_api.h>

#include "linear/packed_weight.h"
#include "ops/args.h"
#include "runtime/launch.h"

namespace imp::cuda {

inline constexpr int kGemvMaxTokens = 8;

struct GemvOutput {
  PackedView weight;
  const float* bias;           // [rows] or null
  float* y;                    // [tokens, rows]
  int64_t y_stride;            // elements
  float scale;                 // of the whole weight
  bool second_layout = false;  // gemv_dp4a() sets it: this output's layout is not the first one's
};

/// y_i[t, :] (+)= h[t, :] * W_i^T + bias_i with h = rms_norm(x) or x, at most kGemvMaxTokens tokens; or with `gated`
/// two weights of equal size and y_0 = activation(g) * u. For integer codes h is quantised to int8 per 32 values; sums
/// are int32 within 32 weights and fp32 across them, in an order that depends on shapes alone.
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
  bool after_other;  // the launch before is not a GEMV, and may fill SMs unevenly
};

/// A linear of at most kGemvMaxTokens fp32 rows.
GemvArgs gemv_args(const LinearArgs& args);

/// Over layouts of integer codes, layouts[i] that of outputs[i]: all the same, or gemv_dp4a_mixes() them.
/// Bytes moved: the packed weights. Oracle: cpp/reference/linear.cpp.
void gemv_dp4a(const PackedLayout* layouts, GemvArgs args, const LaunchContext& context);
/// Whether outputs of both layouts can be computed in one launch.
bool gemv_dp4a_mixes(PackedLayout a, PackedLayout b);

/// The same over fp32, f16 or bf16 rows (PackedLayout::kRows), whose length is a multiple of 16 bytes; h stays fp32.
void gemv_rows(WeightFormat format, const GemvArgs& args, const LaunchContext& context);

inline constexpr int kGemvStaticBytes = 1024;  // shared memory that a block declares itself, at most

/// Shared memory that a block needs at least, its own included.
int gemv_dp4a_shared_bytes(int cols, int tokens);
int gemv_rows_shared_bytes(WeightFormat format, int cols, int tokens);

}  // namespace imp::cuda
