#include "model/arch/families.h"
#include "model/arch/metadata.h"

namespace imp {

/// Llama 1 to 3, and what calls itself so in GGUF: Mistral, SmolLM2, TinyLlama, DeepSeek distillates, ...
///   x += o(attention(rope(q(norm(x))), ...));  x += down(silu(gate(h)) * up(h)), h = norm(x)
/// GGUF files have the rows of q_proj and k_proj permuted so that RoPE pairs neighbours (2i, 2i + 1). Llama 3's
/// frequency scaling comes as divisors in rope_freqs.weight. A few descendants have biases: then the tensors say so.
ModelSpec read_llama_spec(const ModelFile& file) {
  const ArchMetadata meta(file);
  meta.refuse("expert_count", "mixture-of-experts layers are");
  ModelSpec spec = meta.read_common();
  const int window = meta.has("attention.sliding_window") ? meta.count("attention.sliding_window", 1 << 30) : 0;
  for (LayerSpec& layer : spec.layers) {
    AttentionSpec& attention = layer.attention;
    attention.qkv_bias = meta.has_tensor("blk.0.attn_q.bias");
    attention.o_bias = meta.has_tensor("blk.0.attn_output.bias");
    attention.sliding_window = window;  // Mistral 0.1
    attention.rope.pairing = RopePairing::interleaved;
    attention.rope.freq_divisors = meta.read_rope_freqs(attention.rope.rotary_dim);
  }
  return spec;
}

}  // namespace imp
