#include "kv/layout.h"

namespace imp {

uint64_t KvLayout::array_bytes(int layer, int64_t num_blocks) const {
  const KvLayerShape& shape = layers[static_cast<size_t>(layer)];
  return static_cast<uint64_t>(num_blocks) * kKvBlockSize * static_cast<uint64_t>(shape.num_kv_heads) *
         static_cast<uint64_t>(shape.head_dim) * static_cast<uint64_t>(element_bytes);
}

uint64_t KvLayout::block_bytes() const {
  uint64_t bytes = 0;
  for (int layer = 0; layer < static_cast<int>(layers.size()); ++layer) bytes += 2 * array_bytes(layer, 1);
  return bytes;
}

}  // namespace imp
