#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "model/spec.h"
#include "quant/format.h"

namespace imp {

class ModelFile;

/// A weight matrix y[m, rows] = x[m, cols] * W[rows, cols]^T as a backend holds it. The backend that prepared it owns
/// the memory (the CPU: the mapped file itself). `layout` is the backend's own number for how data is arranged; 0 is
/// the file's order.
struct WeightView {
  const void* data = nullptr;
  WeightFormat format = WeightFormat::f32;
  int64_t rows = 0;
  int64_t cols = 0;
  int layout = 0;
  const void* aux = nullptr;  // a layout's second array (scales kept apart, ...), else null
  float scale = 1.0f;         // NVFP4's per-tensor scale; multiplies every weight

  explicit operator bool() const { return data != nullptr; }
};

/// Weights of one layer; absent ones are null. Norm weights and biases are fp32 [n].
struct LayerWeights {
  const float* attn_norm = nullptr;
  WeightView q_proj, k_proj, v_proj, o_proj;
  const float *q_bias = nullptr, *k_bias = nullptr, *v_bias = nullptr, *o_bias = nullptr;
  const float *q_norm = nullptr, *k_norm = nullptr;  // [head_dim]
  const float* attn_post_norm = nullptr;
  const float* ffn_norm = nullptr;
  WeightView gate_proj, up_proj, down_proj;
  const float* ffn_post_norm = nullptr;
};

struct Weights {
  WeightView embed_tokens;
  std::vector<LayerWeights> layers;
  const float* final_norm = nullptr;
  WeightView lm_head;  // equal to embed_tokens where the head is tied
};

}  // namespace imp
