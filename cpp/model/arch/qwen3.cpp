#include "model/arch/families.h"
#include "model/arch/metadata.h"

namespace imp {

/// Qwen 3 (dense): Llama's layer with an RMS norm on every head of q and k before half-split RoPE. The heads together
/// may be wider than the residual stream (0.6B: 16 * 128 on 1024).
ModelSpec read_qwen3_spec(const ModelFile& file) {
  const ArchMetadata meta(file);
  meta.refuse("attention.sliding_window", "windowed attention, which only some of these layers would use, is");
  ModelSpec spec = meta.read_common();
  for (LayerSpec& layer : spec.layers) layer.attention.qk_norm = true;
  return spec;
}

}  // namespace imp
