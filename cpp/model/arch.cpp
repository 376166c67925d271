#include "model/arch.h"

#include <array>
#include <cmath>
#include <string>

#include "core/error.h"
#include "formats/model_file.h"
#include "formats/quoted.h"
#include "model/arch/families.h"

namespace imp {
namespace {

using enum WeightRole;

/// GGUF's names. Every family so far uses these; one with names of its own brings its own table.
constexpr TensorName kGgufNames[] = {
    {embed_tokens, "token_embd.weight"},
    {final_norm, "output_norm.weight"},
    {lm_head, "output.weight"},
    {attn_norm, "blk.{}.attn_norm.weight"},
    {q_proj, "blk.{}.attn_q.weight"},
    {k_proj, "blk.{}.attn_k.weight"},
    {v_proj, "blk.{}.attn_v.weight"},
    {o_proj, "blk.{}.attn_output.weight"},
    {q_bias, "blk.{}.attn_q.bias"},
    {k_bias, "blk.{}.attn_k.bias"},
    {v_bias, "blk.{}.attn_v.bias"},
    {o_bias, "blk.{}.attn_output.bias"},
    {q_norm, "blk.{}.attn_q_norm.weight"},
    {k_norm, "blk.{}.attn_k_norm.weight"},
    {attn_post_norm, "blk.{}.post_attention_norm.weight"},
    {ffn_norm, "blk.{}.ffn_norm.weight"},
    {gate_proj, "blk.{}.ffn_gate.weight"},
    {up_proj, "blk.{}.ffn_up.weight"},
    {down_proj, "blk.{}.ffn_down.weight"},
    {ffn_post_norm, "blk.{}.post_ffw_norm.weight"},
};
static_assert(std::size(kGgufNames) == kNumWeightRoles);

constexpr Architecture kArchitectures[] = {
    {"llama", read_llama_spec, kGgufNames},
    {"qwen2", read_qwen2_spec, kGgufNames},
    {"qwen3", read_qwen3_spec, kGgufNames},
    {"gemma3", read_gemma3_spec, kGgufNames},
};

void validate_rope(const RopeSpec& rope, int head_dim, const auto& require) {
  require(rope.rotary_dim > 0 && rope.rotary_dim % 2 == 0 && rope.rotary_dim <= head_dim,
          "rotary dimensions must be even and at most head_dim", rope.rotary_dim);
  require(std::isfinite(rope.theta) && rope.theta > 1, "the RoPE base must be above 1", rope.theta);
  require(rope.factor > 0, "the RoPE factor must be above 0", rope.factor);
  require(rope.scaling != RopeScaling::yarn || rope.original_context >= 1, "YaRN needs the original context length",
          rope.original_context);
}

void validate_layer(const LayerSpec& layer, const auto& require) {
  const AttentionSpec& attention = layer.attention;
  require(attention.num_heads > 0 && attention.num_kv_heads > 0, "attention heads must be above 0",
          attention.num_heads);
  require(attention.num_heads % attention.num_kv_heads == 0, "query heads must be a multiple of the KV heads",
          attention.num_kv_heads);
  require(attention.head_dim > 0, "head_dim must be above 0", attention.head_dim);
  require(int64_t{attention.num_heads} * attention.head_dim <= (1 << 20), "num_heads * head_dim must be at most 2^20",
          int64_t{attention.num_heads} * attention.head_dim);
  require(std::isfinite(attention.scale) && attention.scale > 0, "the attention scale must be above 0",
          attention.scale);
  require(attention.sliding_window >= 0, "the sliding window must not be negative", attention.sliding_window);
  require(layer.ffn.intermediate_size > 0, "intermediate_size must be above 0", layer.ffn.intermediate_size);
  validate_rope(attention.rope, attention.head_dim, require);
}

}  // namespace

std::span<const Architecture> all_architectures() { return kArchitectures; }

const Architecture& find_architecture(const ModelFile& file) {
  const std::string name = file.get_string("general.architecture");
  std::string known;
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name == name) return architecture;
    known += cat(known.empty() ? "" : ", ", architecture.name);
  }
  fail(ErrorCode::unsupported, file.path(), ": general.architecture is ", quoted(name), "; this build knows ", known);
}

void validate(const ModelSpec& spec, std::string_view where) {
  std::string place = std::string(where);
  const auto require = [&](bool holds, std::string_view rule, auto found) {
    if (!holds) fail(ErrorCode::invalid_model, place, ": ", rule, "; found ", found);
  };
  require(spec.hidden_size > 0, "hidden_size must be above 0", spec.hidden_size);
  require(spec.vocab_size > 0, "vocab_size must be above 0", spec.vocab_size);
  require(spec.context_length > 0, "context_length must be above 0", spec.context_length);
  require(spec.norm_epsilon > 0 && spec.norm_epsilon < 1, "the norm's epsilon must be between 0 and 1",
          spec.norm_epsilon);
  require(std::isfinite(spec.embedding_scale), "the embedding scale must be finite", spec.embedding_scale);
  require(spec.num_layers > 0 && spec.layers.size() == static_cast<size_t>(spec.num_layers),
          "there must be one description for each layer", spec.num_layers);
  for (int layer = 0; layer < spec.num_layers; ++layer) {
    place = cat(where, ": layer ", layer);
    validate_layer(spec.layers[layer], require);
  }
}

ModelSpec read_model_spec(const ModelFile& file) {
  const ModelSpec spec = find_architecture(file).read_spec(file);
  validate(spec, file.path());
  const std::vector<std::string>* tokens = file.find_strings("tokenizer.ggml.tokens");
  if (tokens && tokens->size() > static_cast<size_t>(spec.vocab_size)) {
    fail(ErrorCode::invalid_model, file.path(), ": the tokenizer has ", tokens->size(),
         " tokens, but token_embd.weight only ", spec.vocab_size, " rows");
  }
  return spec;
}

}  // namespace imp
