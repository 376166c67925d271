#pragma once
#include <cstdint>

#include "core/tensor_view.h"
#include "model/spec.h"

namespace imp {

class Backend;

/// Activations of one forward pass, fp32, allocated once for the largest batch and the widest layer.
struct Workspace {
  TensorView hidden;      // [max_tokens, hidden_size]: the residual stream
  TensorView q;           // [max_tokens, num_heads * head_dim]
  TensorView k, v;        // [max_tokens, num_kv_heads * head_dim]
  TensorView attended;    // [max_tokens, num_heads * head_dim]
  TensorView activation;  // [max_tokens, intermediate_size]
  TensorView mixed;       // [max_tokens, hidden_size]: a block's output before its post norm
  TensorView gathered;    // [max_tokens, hidden_size]: rows of the residual whose logits are wanted
};

/// The first `rows` rows of `buffer`, narrowed to `cols`: layers may be of different widths.
inline TensorView part(const TensorView& buffer, int64_t rows, int64_t cols) {
  return {buffer.data, buffer.dtype, rows, cols, cols};
}

uint64_t workspace_bytes(const ModelSpec& spec, int64_t max_tokens);
Workspace make_workspace(const ModelSpec& spec, int64_t max_tokens, Backend& backend);

}  // namespace imp
