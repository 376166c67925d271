#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace imp {

enum class Activation : uint8_t { silu, gelu_tanh };

/// Which elements a rotation pairs: (i, i + rotary_dim/2), or (2i, 2i + 1) as GGUF files of Llama are permuted for.
enum class RopePairing : uint8_t { half_split, interleaved };

enum class RopeScaling : uint8_t { none, linear, llama3, yarn };

/// Rotary position embedding. angle(pos, i) = pos * inv_freq[i]; cos and sin are multiplied by `magnitude`.
/// inv_freq and magnitude are computed once at load from the rest (model/rope.h).
struct RopeSpec {
  RopePairing pairing = RopePairing::half_split;
  int rotary_dim = 0;  // <= head_dim; elements past it pass through
  float theta = 10000.0f;
  RopeScaling scaling = RopeScaling::none;
  float factor = 1.0f;
  float original_context = 0;
  float low_freq_factor = 1, high_freq_factor = 4;  // llama3
  float beta_fast = 32, beta_slow = 1;              // yarn
  float attention_factor = 0;                       // yarn; 0: derived from `factor`
  bool yarn_truncate = true;
  std::vector<float> freq_divisors = {};  // [rotary_dim / 2] from the file (`rope_freqs`); empty: none
  bool operator==(const RopeSpec&) const = default;
};

struct AttentionSpec {
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  float scale = 0;          // of q . k
  float logit_softcap = 0;  // 0: none
  int sliding_window = 0;   // 0: global; else token i sees j with i - window < j <= i
  bool qk_norm = false;     // RMS norm of each q and k head before RoPE
  bool qkv_bias = false;
  bool o_bias = false;
  RopeSpec rope;
  bool operator==(const AttentionSpec&) const = default;
};

struct FfnSpec {
  int intermediate_size = 0;
  Activation activation = Activation::silu;
  bool operator==(const FfnSpec&) const = default;
};

/// x += post_norm?(mixer(norm(x))); x += post_norm?(ffn(norm(x)))
struct LayerSpec {
  AttentionSpec attention;
  FfnSpec ffn;
  bool post_norms = false;  // Gemma's sandwich: RMS norms on the way out, too
  bool operator==(const LayerSpec&) const = default;
};

/// What a model is: sizes and enums, no weights, no devices. Comparable and printable.
struct ModelSpec {
  std::string architecture;  // GGUF's name: "llama", "qwen3", ...
  std::string name;          // general.name
  int hidden_size = 0;
  int num_layers = 0;
  int vocab_size = 0;      // rows of embed_tokens; may exceed the tokenizer's
  int context_length = 0;  // trained
  float norm_epsilon = 1e-5f;
  float embedding_scale = 1;
  float logit_softcap = 0;  // final: c * tanh(x / c); 0: none
  bool tied_lm_head = false;
  std::vector<LayerSpec> layers;
  bool operator==(const ModelSpec&) const = default;
};

}  // namespace imp
