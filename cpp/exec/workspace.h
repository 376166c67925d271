#pragma once
#include <cstdint>

#include "core/tensor_view.h"
#include "model/spec.h"

namespace imp {

class Backend;

/// Activations of one forward pass, fp32, allocated once for the largest batch and the widest layer. `attended` and
/// `activation` may hold rows of bf16 instead (Backend::intermediate_dtype).
struct Workspace {
  TensorView hidden;      // [max_tokens, hidden_size]: the residual stream
  TensorView qkv;         // [max_tokens, (num_heads + 2 * num_kv_heads) * head_dim]: q, k and v side by side
  TensorView attended;    // [max_tokens, num_heads * head_dim]
  TensorView activation;  // [max_tokens, intermediate_size]
  TensorView mixed;       // [max_tokens, hidden_size]: a block's output before its post norm
  TensorView gathered;    // [max_tokens, hidden_size]: rows of the residual whose logits are wanted
};

/// The first `rows` rows of `buffer`, narrowed to `cols`: layers may be of different widths.
inline TensorView part(const TensorView& buffer, int64_t rows, int64_t cols, DType dtype = DType::f32) {
  return {buffer.data, dtype, rows, cols, cols};
}
/// `cols` columns of an fp32 view, from column `first` on.
inline TensorView columns(const TensorView& view, int64_t first, int64_t cols) {
  return {view.row<float>(0) + first, view.dtype, view.rows, cols, view.row_stride};
}

uint64_t workspace_bytes(const ModelSpec& spec, int64_t max_tokens);
Workspace make_workspace(const ModelSpec& spec, int64_t max_tokens, Backend& backend);

}  // namespace imp
