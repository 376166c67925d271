#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace imp {

/// Tokens in one block of the paged KV cache.
inline constexpr int kKvBlockSize = 16;

/// Blocks that hold `tokens` tokens.
constexpr int64_t blocks_for(int64_t tokens) { return (tokens + kKvBlockSize - 1) / kKvBlockSize; }

/// What one layer keeps of a token: k and v of num_kv_heads * head_dim elements each.
struct KvLayerShape {
  int num_kv_heads = 0;
  int head_dim = 0;
};

/// Sizes of the cache of a model. A block id is valid in every layer: block b of each layer holds the same tokens.
struct KvLayout {
  std::vector<KvLayerShape> layers;
  int element_bytes = 2;  // f16

  /// Bytes of the k (or the v) array of one layer for `num_blocks` blocks.
  uint64_t array_bytes(int layer, int64_t num_blocks) const;
  /// Bytes of one block over all layers, k and v.
  uint64_t block_bytes() const;
  uint64_t token_bytes() const { return block_bytes() / kKvBlockSize; }
};

}  // namespace imp
