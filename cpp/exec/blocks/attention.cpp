#include "exec/blocks/blocks.h"

namespace imp {

TensorView attend(const LayerContext& in, const SequenceBatch& batch, TensorView x, int64_t wanted_rows) {
  const AttentionSpec& is = in.spec.attention;
  const LayerWeights& weights = in.weights;
  const int64_t q_width = int64_t{is.num_heads} * is.head_dim;
  const int64_t kv_width = int64_t{is.num_kv_heads} * is.head_dim;
  const TensorView all = part(in.workspace.qkv, x.rows, q_width + 2 * kv_width);
  const TensorView q = columns(all, 0, q_width);
  const TensorView k = columns(all, q_width, kv_width);
  const TensorView v = columns(all, q_width + kv_width, kv_width);
  const TensorView attended = part(in.workspace.attended, x.rows, q_width, in.backend.intermediate_dtype(wanted_rows));

  const LinearOutput qkv[] = {
      {weights.q_proj, weights.q_bias, q}, {weights.k_proj, weights.k_bias, k}, {weights.v_proj, weights.v_bias, v}};
  in.backend.linear({.x = x,
                     .norm_weight = weights.attn_norm,
                     .norm_epsilon = in.norm_epsilon,
                     .outputs = qkv,
                     .role = LinearRole::qkv});

  in.backend.rope_attention({.q = q,
                             .k = k,
                             .v = v,
                             .head_dim = is.head_dim,
                             .q_norm = weights.q_norm,
                             .k_norm = weights.k_norm,
                             .norm_epsilon = in.norm_epsilon,
                             .pairing = is.rope.pairing,
                             .rotary_dim = is.rope.rotary_dim,
                             .inv_freq = in.rope.inv_freq,
                             .rope_magnitude = in.rope.magnitude,
                             .cache = in.cache,
                             .batch = batch},
                            {.q = q,
                             .out = attended,
                             .num_heads = is.num_heads,
                             .scale = is.scale,
                             .softcap = is.logit_softcap,
                             .sliding_window = is.sliding_window,
                             .cache = in.cache,
                             .batch = batch});
  return attended;
}

void add_attended(const LayerContext& in, TensorView attended, RowSelection rows, TensorView x) {
  const bool sandwich = in.spec.post_norms;
  const TensorView y = sandwich ? in.workspace.mixed.head(x.rows) : x;
  const LinearOutput o[] = {{in.weights.o_proj, in.weights.o_bias, y}};
  in.backend.linear({.x = attended,
                     .row_indices = rows.indices,
                     .num_rows = rows.count,
                     .outputs = o,
                     .accumulate = !sandwich,
                     .role = LinearRole::o});
  if (sandwich) {
    in.backend.rms_norm(
        {.x = y, .weight = in.weights.attn_post_norm, .epsilon = in.norm_epsilon, .y = {}, .add_to = x});
  }
}

}  // namespace imp
