#pragma once
#include <fstream>
#include <string>

#include "support/gguf_builder.h"
#include "support/random.h"
#include "support/weight_matrix.h"

namespace imp::test {

/// Sizes of a random model, small enough for a CPU and with the head size of real ones.
struct RandomModelShape {
  WeightFormat format = WeightFormat::f16;
  int num_layers = 2;
  int hidden = 256, intermediate = 512, heads = 4, kv_heads = 2, head_dim = 64, vocab = 512;
  int context = 20480;
};

/// Writes a llama of random weights, without a vocabulary, to `path`.
inline void write_random_model(const std::string& path, const RandomModelShape& shape, uint64_t seed = 1) {
  Random random(seed);
  GgufBuilder file;
  file.string("general.architecture", "llama");
  const auto number = [&](const std::string& key, int value) {
    file.number("llama." + key, static_cast<uint32_t>(value));
  };
  number("block_count", shape.num_layers);
  number("context_length", shape.context);
  number("embedding_length", shape.hidden);
  number("feed_forward_length", shape.intermediate);
  number("attention.head_count", shape.heads);
  number("attention.head_count_kv", shape.kv_heads);
  number("attention.key_length", shape.head_dim);
  number("attention.value_length", shape.head_dim);
  number("rope.dimension_count", shape.head_dim);
  number("vocab_size", shape.vocab);
  file.number("llama.attention.layer_norm_rms_epsilon", 1e-5f).number("llama.rope.freq_base", 500000.0f);
  file.string("tokenizer.ggml.model", "no_vocab");
  const auto matrix = [&](const std::string& name, int rows, int cols) {
    file.tensor(name + ".weight", shape.format, {rows, cols}, WeightMatrix(shape.format, rows, cols, random).bytes);
  };
  const auto norm = [&](const std::string& name) {
    std::vector<float> values(static_cast<size_t>(shape.hidden));
    for (float& value : values) value = 1 + 0.1f * random.normal();
    values[7] = 10;  // trained norms have outliers
    std::vector<std::byte> bytes(values.size() * sizeof(float));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    file.tensor(name + ".weight", WeightFormat::f32, {shape.hidden}, std::move(bytes));
  };
  matrix("token_embd", shape.vocab, shape.hidden);
  matrix("output", shape.vocab, shape.hidden);
  norm("output_norm");
  for (int layer = 0; layer < shape.num_layers; ++layer) {
    const std::string prefix = cat("blk.", layer, ".");
    norm(prefix + "attn_norm");
    norm(prefix + "ffn_norm");
    matrix(prefix + "attn_q", shape.heads * shape.head_dim, shape.hidden);
    matrix(prefix + "attn_k", shape.kv_heads * shape.head_dim, shape.hidden);
    matrix(prefix + "attn_v", shape.kv_heads * shape.head_dim, shape.hidden);
    matrix(prefix + "attn_output", shape.hidden, shape.heads * shape.head_dim);
    matrix(prefix + "ffn_gate", shape.intermediate, shape.hidden);
    matrix(prefix + "ffn_up", shape.intermediate, shape.hidden);
    matrix(prefix + "ffn_down", shape.hidden, shape.intermediate);
  }
  const GgufImage image = file.build();
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(image.bytes.data()), static_cast<std::streamsize>(image.bytes.size()));
}

}  // namespace imp::test
