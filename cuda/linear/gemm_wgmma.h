#pragma once
#include "linear/packed_weight.h"
#include "model/spec.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// One product: y[t, n] (+)= sum_k x[t, k] * W[n, k] * scale + bias[n].
struct WgmmaOutput {
  PackedView weight;
  const float* bias;  // [rows] or null
  void* y;            // fp32 or bf16 (WgmmaArgs::bf16_out)
  int64_t y_stride;   // elements
  float scale;
};

/// Up to 3 products of one x, or (gated) y_0 = activation(gate) * up of outputs 0 and 1. Weights of one layout, not
/// kRows.
struct WgmmaArgs {
  const void* x;     // [tokens, k] bf16, aligned to 16 bytes
  int64_t x_stride;  // elements, a multiple of 8
  int tokens;
  WgmmaOutput outputs[3];
  int num_outputs;
  bool accumulate;  // y holds the residual; fp32 out only
  bool gated;
  bool bf16_out;
  Activation activation;
  float* partial;  // scratch of wgmma_partial_floats(), aligned to 16 bytes, or null: tiles are then never shared
  int32_t* flags;  // one a multiprocessor, zero before the first launch; every launch leaves them zero
};

constexpr int64_t wgmma_partial_floats(int num_sms) { return int64_t{num_sms} * 128 * 256; }

/// Weights are expanded to bf16 on the way into shared memory: exactly dequantize_bf16()'s numbers where scale is 1.
/// k is a multiple of 32. tile_tokens: 128 or 256; 0 chooses.
void gemm_wgmma(PackedLayout layout, const WgmmaArgs& args, const LaunchContext& context, int tile_tokens = 0);

}  // namespace imp::cuda
