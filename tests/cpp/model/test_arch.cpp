#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>

#include "core/error.h"
#include "model/arch.h"
#include "support/memory_model.h"

using namespace imp;
using test::MemoryModel;
using test::small_model;

namespace {

void check_refused(const MemoryModel& model, ErrorCode code, std::initializer_list<std::string_view> parts) {
  try {
    read_model_spec(model);
    FAIL("accepted, though expected to be refused with: ", std::string(*parts.begin()));
  } catch (const Error& error) {
    const std::string message = error.what();
    CAPTURE(message);
    CHECK(error.code() == code);
    CHECK(message.starts_with("memory.gguf"));
    for (const std::string_view part : parts) CHECK(message.find(part) != std::string::npos);
  }
}

MemoryModel llama_with(const std::string& key, MetaValue value) {
  MemoryModel model = small_model("llama");
  model.set("llama." + key, std::move(value));
  return model;
}

}  // namespace

TEST_CASE("llama: interleaved RoPE, biases where the file has them") {
  MemoryModel model = small_model("llama");
  const ModelSpec spec = read_model_spec(model);
  CHECK(spec.architecture == "llama");
  CHECK(spec.hidden_size == 64);
  CHECK(spec.vocab_size == 40);
  CHECK(spec.context_length == 128);
  CHECK_FALSE(spec.tied_lm_head);
  REQUIRE(spec.layers.size() == 2);
  const AttentionSpec& attention = spec.layers[1].attention;
  CHECK(attention.num_heads == 4);
  CHECK(attention.num_kv_heads == 2);
  CHECK(attention.head_dim == 16);
  CHECK(attention.scale == 0.25f);
  CHECK(attention.rope.pairing == RopePairing::interleaved);
  CHECK(attention.rope.rotary_dim == 16);
  CHECK(attention.rope.theta == 10000.0f);
  CHECK_FALSE(attention.qkv_bias);
  CHECK(spec.layers[1].ffn.activation == Activation::silu);
  model.tensor("blk.0.attn_q.bias", {64}).drop_tensor("output.weight");
  CHECK(read_model_spec(model).layers[1].attention.qkv_bias);
  CHECK(read_model_spec(model).tied_lm_head);
}

TEST_CASE("llama: scaling of RoPE") {
  MemoryModel model = llama_with("rope.scaling.type", "linear");
  model.set("llama.rope.scaling.factor", 4.0);
  CHECK(read_model_spec(model).layers[0].attention.rope.scaling == RopeScaling::linear);
  model.drop("llama.rope.scaling.type");  // a factor alone is linear
  CHECK(read_model_spec(model).layers[0].attention.rope.scaling == RopeScaling::linear);
  model.set("llama.rope.scaling.type", "none");
  CHECK(read_model_spec(model).layers[0].attention.rope.scaling == RopeScaling::none);

  model.set("llama.rope.scaling.type", "yarn").set("llama.rope.scaling.original_context_length", uint64_t{64});
  const RopeSpec yarn = read_model_spec(model).layers[0].attention.rope;
  CHECK(yarn.scaling == RopeScaling::yarn);
  CHECK(yarn.original_context == 64);
  CHECK(yarn.attention_factor == doctest::Approx(0.1 * std::log(4.0) + 1));
  model.set("llama.rope.scaling.yarn_log_multiplier", 1.0);  // mscale == mscale_all_dim: they cancel
  CHECK(read_model_spec(model).layers[0].attention.rope.attention_factor == doctest::Approx(1));

  model = llama_with("rope.scaling.type", "longrope").set("llama.rope.scaling.factor", 4.0);
  check_refused(model, ErrorCode::unsupported, {"llama.rope.scaling.type", "longrope", "supported"});

  model = small_model("llama").tensor("rope_freqs.weight", {8}, {1, 1, 1, 2, 4, 8, 8, 8});
  CHECK(read_model_spec(model).layers[1].attention.rope.freq_divisors == std::vector<float>{1, 1, 1, 2, 4, 8, 8, 8});
  model.tensor("rope_freqs.weight", {3}, {1, 1, 1});
  check_refused(model, ErrorCode::invalid_model, {"rope_freqs.weight", "3", "8"});
  model.tensor("rope_freqs.weight", {8}, {1, 1, 1, 0, 4, 8, 8, 8});
  check_refused(model, ErrorCode::invalid_model, {"rope_freqs.weight", "above 0"});
}

TEST_CASE("qwen2 has biases, qwen3 norms of q and k, both half-split RoPE") {
  const AttentionSpec two = read_model_spec(small_model("qwen2")).layers[0].attention;
  CHECK(two.qkv_bias);
  CHECK_FALSE(two.qk_norm);
  CHECK(two.rope.pairing == RopePairing::half_split);
  MemoryModel model = small_model("qwen3");
  model.set("qwen3.attention.key_length", uint64_t{32}).set("qwen3.attention.value_length", uint64_t{32});
  const AttentionSpec three = read_model_spec(model).layers[0].attention;
  CHECK(three.qk_norm);
  CHECK_FALSE(three.qkv_bias);
  CHECK(three.head_dim == 32);  // not hidden_size / num_heads
  CHECK(three.rope.rotary_dim == 32);
  model.set("qwen3.attention.sliding_window", uint64_t{4096});
  check_refused(model, ErrorCode::unsupported, {"qwen3.attention.sliding_window", "4096"});
}

TEST_CASE("gemma3: which layers have windows, and their own RoPE") {
  MemoryModel model = small_model("gemma3");
  model.set("gemma3.attention.sliding_window", uint64_t{512});
  model.set("gemma3.rope.freq_base", 1e6)
      .set("gemma3.rope.scaling.type", "linear")
      .set("gemma3.rope.scaling.factor", 8.0);
  model.set("gemma3.attention.sliding_window_pattern", uint64_t{2});
  ModelSpec spec = read_model_spec(model);
  CHECK(spec.embedding_scale == 8.0f);
  CHECK(spec.layers[0].post_norms);
  CHECK(spec.layers[0].ffn.activation == Activation::gelu_tanh);
  CHECK(spec.layers[0].attention.sliding_window == 512);
  CHECK(spec.layers[0].attention.rope.theta == 1e4f);
  CHECK(spec.layers[0].attention.rope.scaling == RopeScaling::none);
  CHECK(spec.layers[1].attention.sliding_window == 0);
  CHECK(spec.layers[1].attention.rope.theta == 1e6f);
  CHECK(spec.layers[1].attention.rope.factor == 8.0f);

  model.set("gemma3.attention.sliding_window_pattern", std::vector<bool>{false, true});
  spec = read_model_spec(model);
  CHECK(spec.layers[0].attention.sliding_window == 0);
  CHECK(spec.layers[1].attention.sliding_window == 512);
  model.set("gemma3.attention.sliding_window_pattern", std::vector<bool>{false});
  check_refused(model, ErrorCode::invalid_model, {"sliding_window_pattern", "1 values", "2 layers"});
  model.drop("gemma3.attention.sliding_window_pattern");  // 6: both are windowed
  CHECK(read_model_spec(model).layers[1].attention.sliding_window == 512);
  model.set("gemma3.final_logit_softcapping", 30.0).set("gemma3.attn_logit_softcapping", 50.0);
  CHECK(read_model_spec(model).logit_softcap == 30.0f);
  CHECK(read_model_spec(model).layers[0].attention.logit_softcap == 50.0f);
}

TEST_CASE("gemma3: the scale of 62 layers goes by hidden_size / num_heads") {
  MemoryModel model = small_model("gemma3");
  model.set("gemma3.attention.key_length", uint64_t{32}).set("gemma3.attention.value_length", uint64_t{32});
  CHECK(read_model_spec(model).layers[0].attention.scale == doctest::Approx(1 / std::sqrt(32.0)));
  model.set("gemma3.block_count", uint64_t{62});
  CHECK(read_model_spec(model).layers[0].attention.scale == 0.25f);
  model.set("gemma3.attention.scale", 0.125);
  CHECK(read_model_spec(model).layers[0].attention.scale == 0.125f);
}

TEST_CASE("widths may differ from layer to layer") {
  MemoryModel model = llama_with("feed_forward_length", std::vector<uint64_t>{96, 128});
  const ModelSpec spec = read_model_spec(model);
  CHECK(spec.layers[0].ffn.intermediate_size == 96);
  CHECK(spec.layers[1].ffn.intermediate_size == 128);
  check_refused(llama_with("feed_forward_length", std::vector<uint64_t>{96}), ErrorCode::invalid_model,
                {"feed_forward_length", "1 values", "2 layers"});
}

TEST_CASE("an unknown architecture is refused with the known ones") {
  MemoryModel model = small_model("llama");
  model.set("general.architecture", "mamba\n2");
  check_refused(model, ErrorCode::unsupported, {"mamba\\x0a2", "llama, qwen2, qwen3, gemma3"});
}

TEST_CASE("bad metadata is refused with key and value") {
  const auto invalid = ErrorCode::invalid_model;
  check_refused(small_model("llama").drop("llama.block_count"), invalid, {"llama.block_count", "missing"});
  check_refused(llama_with("block_count", uint64_t{0}), invalid, {"llama.block_count is 0"});
  check_refused(llama_with("block_count", uint64_t{1} << 40), invalid, {"llama.block_count", "1099511627776"});
  check_refused(llama_with("block_count", "two"), invalid, {"llama.block_count", "integer"});
  check_refused(llama_with("context_length", uint64_t{0}), invalid, {"llama.context_length is 0"});
  check_refused(llama_with("embedding_length", int64_t{-64}), invalid, {"llama.embedding_length is -64"});
  check_refused(llama_with("embedding_length", uint64_t{66}), invalid, {"66", "multiple", "head_count"});
  check_refused(llama_with("attention.head_count", uint64_t{0}), invalid, {"llama.attention.head_count is 0"});
  check_refused(llama_with("attention.head_count_kv", uint64_t{3}), invalid, {"layer 0", "multiple", "3"});
  check_refused(llama_with("attention.key_length", uint64_t{1} << 20), invalid, {"llama.attention.key_length"});
  check_refused(llama_with("attention.value_length", uint64_t{8}), ErrorCode::unsupported, {"value_length"});
  check_refused(llama_with("rope.dimension_count", uint64_t{15}), invalid, {"layer 0", "even", "15"});
  check_refused(llama_with("rope.dimension_count", uint64_t{18}), invalid, {"llama.rope.dimension_count is 18"});
  check_refused(llama_with("rope.freq_base", 0.0), invalid, {"llama.rope.freq_base is 0"});
  for (const double epsilon : {0.0, -1e-5, 1.0, double(INFINITY), double(NAN)}) {
    check_refused(llama_with("attention.layer_norm_rms_epsilon", epsilon), invalid, {"epsilon"});
  }
  check_refused(llama_with("vocab_size", uint64_t{0}), invalid, {"llama.vocab_size is 0"});
  check_refused(llama_with("vocab_size", uint64_t{41}), invalid, {"llama.vocab_size", "41", "40"});
  check_refused(llama_with("expert_count", uint64_t{8}), ErrorCode::unsupported, {"llama.expert_count is 8", "expert"});
}

TEST_CASE("embedding rows and the tokenizer must fit") {
  MemoryModel model = small_model("llama");
  model.set("tokenizer.ggml.tokens", std::vector<std::string>(40, "a"));
  CHECK(read_model_spec(model).vocab_size == 40);
  model.set("tokenizer.ggml.tokens", std::vector<std::string>(41, "a"));
  check_refused(model, ErrorCode::invalid_model, {"41 tokens", "40 rows"});
  check_refused(small_model("llama").drop_tensor("token_embd.weight"), ErrorCode::invalid_model, {"token_embd.weight"});
}
