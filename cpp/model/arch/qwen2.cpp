#include "model/arch/families.h"
#include "model/arch/metadata.h"

namespace imp {

/// Qwen 2 and 2.5: Llama's layer with biases on q, k and v, and half-split RoPE.
ModelSpec read_qwen2_spec(const ModelFile& file) {
  const ArchMetadata meta(file);
  meta.refuse("attention.sliding_window", "windowed attention, which only some of these layers would use, is");
  ModelSpec spec = meta.read_common();
  for (LayerSpec& layer : spec.layers) layer.attention.qkv_bias = true;
  return spec;
}

}  // namespace imp
