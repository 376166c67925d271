#include "exec/workspace.h"

#include <algorithm>

#include "exec/backend.h"

namespace imp {
namespace {

struct Widths {
  int64_t q = 0, qkv = 0, intermediate = 0;
};

Widths widest(const ModelSpec& spec) {
  Widths widths;
  for (const LayerSpec& layer : spec.layers) {
    const AttentionSpec& attention = layer.attention;
    const int64_t q = int64_t{attention.num_heads} * attention.head_dim;
    const int64_t kv = int64_t{attention.num_kv_heads} * attention.head_dim;
    widths.q = std::max(widths.q, q);
    widths.qkv = std::max(widths.qkv, q + 2 * kv);
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
  const int64_t columns = residuals * spec.hidden_size + widths.q + widths.qkv + widths.intermediate;
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
      .qkv = buffer(widths.qkv),
      .attended = buffer(widths.q),
      .activation = buffer(widths.intermediate),
      .mixed = any_post_norms(spec) ? buffer(spec.hidden_size) : TensorView{},
      .gathered = buffer(spec.hidden_size),
  };
}

}  // namespace imp
