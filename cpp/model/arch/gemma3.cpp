#include <cmath>

#include "core/error.h"
#include "model/arch/families.h"
#include "model/arch/metadata.h"

namespace imp {
namespace {

constexpr int kNumLayersOf27B = 62;

/// Layer i looks at everything where (i + 1) is a multiple of the pattern, else through the window. The key holds
/// the pattern (6 where absent) or one flag a layer: true for windowed.
bool is_windowed(const ArchMetadata& meta, int layer, int num_layers) {
  const std::string_view key = "attention.sliding_window_pattern";
  const MetaValue* value = meta.file().find(meta.full(key));
  if (const auto* flags = value ? std::get_if<std::vector<bool>>(value) : nullptr) {
    if (flags->size() != static_cast<size_t>(num_layers)) {
      fail(ErrorCode::invalid_model, meta.file().path(), ": ", meta.full(key), " has ", flags->size(),
           " values; expected one for each of ", num_layers, " layers");
    }
    return (*flags)[layer];
  }
  return (layer + 1) % meta.count(key, 1 << 20, 6) != 0;
}

/// head_dim^-1/2, but for the 27B, which was trained with (hidden_size / num_heads)^-1/2; GGUF has no key for it
/// in older files, so that readers go by the number of layers.
float attention_scale(const ArchMetadata& meta, const ModelSpec& spec, const AttentionSpec& attention) {
  if (meta.has("attention.scale")) return meta.positive("attention.scale");
  const int per_head = spec.num_layers == kNumLayersOf27B ? spec.hidden_size / attention.num_heads : attention.head_dim;
  return 1.0f / std::sqrt(static_cast<float>(per_head));
}

}  // namespace

/// Gemma 3 (text): embeddings times sqrt(hidden_size), norms before and after each block, QK norm, gelu, a tied head,
/// and five windowed layers with their own RoPE base and no scaling to each global one. GGUF has folded the +1 of
/// Gemma's norm weights. Hugging Face rounds the embedding scale to the weights' type; here it stays fp32, as in an
/// fp32 model.
ModelSpec read_gemma3_spec(const ModelFile& file) {
  const ArchMetadata meta(file);
  ModelSpec spec = meta.read_common();
  spec.embedding_scale = std::sqrt(static_cast<float>(spec.hidden_size));
  if (meta.has("final_logit_softcapping")) spec.logit_softcap = meta.positive("final_logit_softcapping");
  const int window = meta.has("attention.sliding_window") ? meta.count("attention.sliding_window", 1 << 30) : 0;
  const float local_theta = meta.positive("rope.freq_base_swa", 10000.0);
  for (int i = 0; i < spec.num_layers; ++i) {
    LayerSpec& layer = spec.layers[i];
    AttentionSpec& attention = layer.attention;
    layer.post_norms = true;
    layer.ffn.activation = Activation::gelu_tanh;
    attention.qk_norm = true;
    attention.scale = attention_scale(meta, spec, attention);
    if (meta.has("attn_logit_softcapping")) attention.logit_softcap = meta.positive("attn_logit_softcapping");
    if (window > 0 && is_windowed(meta, i, spec.num_layers)) {
      attention.sliding_window = window;
      attention.rope.theta = local_theta;
      attention.rope.scaling = RopeScaling::none;
      attention.rope.factor = 1;
    }
  }
  return spec;
}

}  // namespace imp
