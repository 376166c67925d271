#include "exec/blocks/blocks.h"

namespace imp {

void feed_forward(const LayerContext& in, float skip_threshold, ForwardObserver* observer, TensorView x) {
  const LayerWeights& weights = in.weights;
  const DType dtype = observer ? DType::f32 : in.backend.intermediate_dtype(x.rows);
  const TensorView activation = part(in.workspace.activation, x.rows, in.spec.ffn.intermediate_size, dtype);
  const LinearOutput gate_up[] = {{weights.gate_proj, nullptr, activation}, {weights.up_proj, nullptr, {}}};
  in.backend.linear({.x = x,
                     .norm_weight = weights.ffn_norm,
                     .norm_epsilon = in.norm_epsilon,
                     .outputs = gate_up,
                     .gated = true,
                     .activation = in.spec.ffn.activation,
                     .role = LinearRole::gate_up});
  if (observer) observer->on_ffn_activation(in.layer, activation);

  const bool sandwich = in.spec.post_norms;
  const TensorView y = sandwich ? in.workspace.mixed.head(x.rows) : x;
  const LinearOutput down[] = {{weights.down_proj, nullptr, y}};
  in.backend.linear({.x = activation,
                     .outputs = down,
                     .accumulate = !sandwich,
                     .role = LinearRole::down,
                     .skip_threshold = skip_threshold});
  if (sandwich) {
    in.backend.rms_norm({.x = y, .weight = weights.ffn_post_norm, .epsilon = in.norm_epsilon, .y = {}, .add_to = x});
  }
}

}  // namespace imp
