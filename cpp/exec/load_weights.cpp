#include "exec/load_weights.h"

namespace imp {
namespace {

class Loader {
 public:
  Loader(const ModelTensors& tensors, Backend& backend) : tensors_(tensors), backend_(backend) {}

  WeightView matrix(const TensorInfo* tensor, LinearRole role) {
    if (!tensor) return {};
    WeightView view = backend_.prepare_weight(*tensor, role);
    view.scale *= tensors_.scale_of(tensor);
    return view;
  }

  const float* vector(const TensorInfo* tensor) { return tensor ? backend_.prepare_vector(*tensor) : nullptr; }

 private:
  const ModelTensors& tensors_;
  Backend& backend_;
};

LayerWeights load_layer(const ModelTensors& tensors, int layer, Loader& load) {
  const auto tensor = [&](WeightRole role) { return tensors.of(layer, role); };
  return {
      .attn_norm = load.vector(tensor(WeightRole::attn_norm)),
      .q_proj = load.matrix(tensor(WeightRole::q_proj), LinearRole::qkv),
      .k_proj = load.matrix(tensor(WeightRole::k_proj), LinearRole::qkv),
      .v_proj = load.matrix(tensor(WeightRole::v_proj), LinearRole::qkv),
      .o_proj = load.matrix(tensor(WeightRole::o_proj), LinearRole::o),
      .q_bias = load.vector(tensor(WeightRole::q_bias)),
      .k_bias = load.vector(tensor(WeightRole::k_bias)),
      .v_bias = load.vector(tensor(WeightRole::v_bias)),
      .o_bias = load.vector(tensor(WeightRole::o_bias)),
      .q_norm = load.vector(tensor(WeightRole::q_norm)),
      .k_norm = load.vector(tensor(WeightRole::k_norm)),
      .attn_post_norm = load.vector(tensor(WeightRole::attn_post_norm)),
      .ffn_norm = load.vector(tensor(WeightRole::ffn_norm)),
      .gate_proj = load.matrix(tensor(WeightRole::gate_proj), LinearRole::gate_up),
      .up_proj = load.matrix(tensor(WeightRole::up_proj), LinearRole::gate_up),
      .down_proj = load.matrix(tensor(WeightRole::down_proj), LinearRole::down),
      .ffn_post_norm = load.vector(tensor(WeightRole::ffn_post_norm)),
  };
}

}  // namespace

Weights load_weights(const ModelTensors& tensors, const ModelSpec& spec, Backend& backend) {
  Loader load(tensors, backend);
  Weights weights;
  // A tied table is prepared once, for the head: embedding lookups can read any layout row by row.
  const TensorInfo* table = tensors.of(WeightRole::embed_tokens);
  weights.embed_tokens = load.matrix(table, LinearRole::lm_head);
  weights.lm_head =
      spec.tied_lm_head ? weights.embed_tokens : load.matrix(tensors.of(WeightRole::lm_head), LinearRole::lm_head);
  weights.lm_head = backend.prepare_head(weights.lm_head);
  weights.final_norm = load.vector(tensors.of(WeightRole::final_norm));
  for (int layer = 0; layer < spec.num_layers; ++layer) weights.layers.push_back(load_layer(tensors, layer, load));
  backend.finish_weights();
  return weights;
}

}  // namespace imp
