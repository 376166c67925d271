#pragma once
#include <array>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "model/spec.h"
#include "quant/format.h"

namespace imp {

class ModelFile;
struct TensorInfo;

/// What a tensor is for. The first three exist once a model, the others once a layer.
enum class WeightRole : uint8_t {
  embed_tokens,
  final_norm,
  lm_head,
  attn_norm,
  q_proj,
  k_proj,
  v_proj,
  o_proj,
  q_bias,
  k_bias,
  v_bias,
  o_bias,
  q_norm,
  k_norm,
  attn_post_norm,
  ffn_norm,
  gate_proj,
  up_proj,
  down_proj,
  ffn_post_norm,
};
inline constexpr int kNumWeightRoles = 20;
std::string_view weight_role_name(WeightRole role);

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

/// The tensors of a file by role, before a backend has seen them. A role the model has not is null.
struct ModelTensors {
  using ByRole = std::array<const TensorInfo*, kNumWeightRoles>;
  ByRole model = {};                                        // the roles that exist once
  std::vector<ByRole> layers;                               // [num_layers]
  std::vector<std::pair<const TensorInfo*, float>> scales;  // NVFP4: weight, its per-tensor scale

  const TensorInfo* of(WeightRole role) const { return model[static_cast<int>(role)]; }
  const TensorInfo* of(int layer, WeightRole role) const { return layers[layer][static_cast<int>(role)]; }
  float scale_of(const TensorInfo* weight) const;
};

/// Finds every weight that `spec` calls for, checks its shape, and that no tensor of the file is left over: a tensor
/// nobody reads means that imp would compute another model than the file's. Errors are invalid_model.
ModelTensors match_tensors(const ModelFile& file, const ModelSpec& spec);

}  // namespace imp
