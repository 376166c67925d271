#include "exec/workspace.h"

#include <algorithm>

#include "exec/backend.h"

namespace imp {
namespace {

struct Widths {
  int64_t q = 0, kv = 0, intermediate = 0;
};

Widths widest(const ModelSpec& spec) {
  Widths widths;
  for (const LayerSpec& layer : spec.layers) {
    const AttentionSpec& attention = layer.attention;
    widths.q = std::max(widths.q, int64_t{attention.num_heads} * attention.head_dim);
    widths.kv = std::max(widths.kv, int64_t{attention.num_kv_heads} * attention.head_dim);
    widths.intermediate = std::max<int64_t>(widths.intermediate, layer.ffn.intermediate_size);
  }
  return widths;
}

bool any_post_norms(const ModelSpec& spec) {
  return std::any_of(spec.layers.begin(), spec.layers.end(), [](const LayerSpec& layer) { return layer.post_norms; });
}

}  // namespace

uint64_t workspace_bytes(const ModelSpec& spec, int64_t max_tokens) {
  const Widths widths = widest(spec);
  const int64_t residuals = any_post_norms(spec) ? 3 : 2;
  const int64_t columns = residuals * spec.hidden_size + 2 * widths.q + 2 * widths.kv + widths.intermediate;
  return static_cast<uint64_t>(columns) * max_tokens * sizeof(float);
}

Workspace make_workspace(const ModelSpec& spec, int64_t max_tokens, Backend& backend) {
  const Widths widths = widest(spec);
  const auto buffer = [&](int64_t cols) {
    void* data = backend.allocate(static_cast<uint64_t>(max_tokens) * cols * sizeof(float), MemoryTag::workspace);
    return f32_view(static_cast<float*>(data), max_tokens, cols);
  };
  return {
      .hidden = buffer(spec.hidden_size),
      .q = buffer(widths.q),
      .k = buffer(widths.kv),
      .v = buffer(widths.kv),
      .attended = buffer(widths.q),
      .activation = buffer(widths.intermediate),
      .mixed = any_post_norms(spec) ? buffer(spec.hidden_size) : TensorView{},
      .gathered = buffer(spec.hidden_size),
  };
}

}  // namespace imp
