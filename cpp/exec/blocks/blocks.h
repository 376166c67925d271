#pragma once
#include "exec/backend.h"
#include "exec/decoder.h"
#include "exec/workspace.h"

namespace imp {

/// A RopeTable (model/rope.h) in the backend's memory.
struct RopeView {
  const float* inv_freq = nullptr;  // [rotary_dim / 2]
  float magnitude = 1;
};

/// One layer as its blocks see it.
struct LayerContext {
  int layer;
  float norm_epsilon;
  const LayerSpec& spec;
  const LayerWeights& weights;
  const RopeView& rope;
  const KvLayerView& cache;
  const Workspace& workspace;
  Backend& backend;
};

/// Which rows of a view are meant: all, or `count` of them by index.
struct RowSelection {
  const int32_t* indices = nullptr;  // in the backend's memory; null: all
  int64_t count = 0;
};

/// Caches k and v of norm(x); returns what each token gathers from its context, [tokens, num_heads * head_dim], of
/// which o_proj will read `wanted_rows` rows.
TensorView attend(const LayerContext& in, const SequenceBatch& batch, TensorView x, int64_t wanted_rows);

/// x += post_norm?(o(the chosen rows of attended))
void add_attended(const LayerContext& in, TensorView attended, RowSelection rows, TensorView x);

/// x += post_norm?(down(activation(gate(h)) * up(h))), h = norm(x)
void feed_forward(const LayerContext& in, float skip_threshold, ForwardObserver* observer, TensorView x);

}  // namespace imp
