#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "support/compare.h"
#include "support/model_runner.h"
#include "support/tiny_models.h"

// Tiny random models on the device against the logits of Hugging Face (tools/make_goldens.py made the files), and the
// equalities that must hold whatever the logits are.

using namespace imp;
using namespace imp::test;

namespace {

// Decoding a model of float weights: q and the softmax's weights are f16 on the tensor cores, 2^-11 of each.
// Seen: 5e-4.
constexpr double kFloatDecode = 1e-3;
// A prompt multiplies bf16 numbers, 2^-8 of each at most, and small models have little to average. Seen: 8e-3 to 2e-2.
constexpr double kBf16Prefill = 3e-2;
// Int8 activations: the oracle rounds them too, but what f16 attention moves over the middle between two codes then
// errs by a whole one. Seen: 1.8e-2, where a window one token too wide changes 4e-1.
constexpr double kInt8Decode = 3e-2;

RunnerOptions on_device(std::function<void(Settings&)> configure = {}) {
  return {.max_sequences = 4, .configure = std::move(configure), .make_backend = [](const BackendOptions& options) {
            return make_cuda_backend(options, 0);
          }};
}

/// How far apart a path of bf16 and one of int8 (or fp32) activations may be: what int8 costs this model in the
/// oracle's own arithmetic, 5e-2 to 1e-1, and the bf16 on top.
double paths_differ(const Golden& golden) {
  const std::string name = golden.name;
  if (!golden.block_format) return kBf16Prefill;
  return 1.2 * distance(expected(name, "int8"), expected(name, "f16kv")) + kBf16Prefill;
}

ModelRunner runner_of(const std::string& name, std::function<void(Settings&)> configure = {}) {
  return ModelRunner(data_path(name + ".gguf"), on_device(std::move(configure)));
}

std::vector<float> token_by_token(ModelRunner& runner, const std::vector<int32_t>& tokens) {
  std::vector<float> all;
  for (int32_t token : tokens) {
    const std::vector<float> logits = runner.forward({{0, {token}}});
    all.insert(all.end(), logits.begin(), logits.end());
  }
  return all;
}

void never_graphs(Settings& settings) { settings.runtime.cuda_graphs = "never"; }

}  // namespace

TEST_CASE("logits equal Hugging Face's, in one batch and token by token") {
  for (const Golden& golden : kGoldens) {
    const std::string name = golden.name;
    ModelRunner runner = runner_of(name);
    // A short prompt of a block format has int8 activations too (gemm_imma), and attention of its own roundings
    // between.
    const double prefill =
        distance(runner.forward({{0, prompt_of(name)}}), expected(name, golden.block_format ? "int8" : "f16kv"));
    runner.reset();
    const double decode =
        distance(token_by_token(runner, prompt_of(name)), expected(name, golden.block_format ? "int8" : "f16kv"));
    CAPTURE(name);
    MESSAGE(name, ": prefill off by ", prefill, ", decode by ", decode);
    CHECK(prefill < paths_differ(golden));
    CHECK(decode < (golden.block_format ? kInt8Decode : kFloatDecode));
  }
}

TEST_CASE("replayed steps give the bits of eager ones") {
  for (const Golden& golden : kGoldens) {
    const std::string name = golden.name;
    CAPTURE(name);
    ModelRunner graphs = runner_of(name), eager = runner_of(name, never_graphs);
    ModelRunner no_pdl = runner_of(name, [](Settings& settings) { settings.runtime.no_pdl = true; });
    const std::vector<float> wanted = token_by_token(eager, prompt_of(name));
    CHECK(same_bits(token_by_token(graphs, prompt_of(name)), wanted));
    CHECK(same_bits(token_by_token(no_pdl, prompt_of(name)), wanted));
    // Another sequence through the same graphs: only the contents of the inputs differ.
    for (ModelRunner* runner : {&graphs, &eager}) runner->reset();
    std::vector<int32_t> backwards = prompt_of(name);
    std::reverse(backwards.begin(), backwards.end());
    CHECK(same_bits(token_by_token(graphs, backwards), token_by_token(eager, backwards)));
  }
}

TEST_CASE("a prompt in chunks gives the logits of the whole") {
  for (const Golden& golden : kGoldens) {
    const std::string name = golden.name;
    const std::vector<int32_t> prompt = prompt_of(name);
    ModelRunner runner = runner_of(name);
    const std::vector<float> whole = runner.forward({{0, prompt}});
    for (size_t chunk : {9, 16, 17, 39, 5}) {
      runner.reset();
      std::vector<float> pieces;
      for (size_t begin = 0; begin < prompt.size(); begin += chunk) {
        const std::vector<int32_t> part(prompt.begin() + begin,
                                        prompt.begin() + std::min(begin + chunk, prompt.size()));
        const std::vector<float> logits = runner.forward({{0, part}});
        pieces.insert(pieces.end(), logits.begin(), logits.end());
      }
      CAPTURE(name);
      CAPTURE(chunk);
      CHECK(distance(pieces, whole) < paths_differ(golden));
    }
  }
}

TEST_CASE("sequences of a batch do not see each other") {
  for (const Golden& golden : kGoldens) {
    const std::string name = golden.name;
    CAPTURE(name);
    const std::vector<int32_t> prompt = prompt_of(name);
    ModelRunner batched = runner_of(name), alone = runner_of(name);
    const std::vector<int32_t> lengths = {30, 7, 16};
    const auto start = [&](int s) { return std::vector<int32_t>(prompt.begin() + s, prompt.begin() + s + lengths[s]); };
    batched.forward({{0, start(0)}, {1, start(1)}, {2, start(2)}});
    std::vector<float> together, apart;
    for (int step = 0; step < 5; ++step) {
      const auto logits = batched.forward({{2, {prompt[step]}}, {0, {prompt[step + 3]}}, {1, {prompt[step + 5]}}});
      together.insert(together.end(), logits.begin(), logits.end());
    }
    const int64_t vocab = batched.spec().vocab_size;
    std::vector<std::vector<float>> rows(3);
    for (const auto& [s, shift] : {std::pair{2, 0}, {0, 3}, {1, 5}}) {
      alone.reset();
      alone.forward({{0, start(s)}});
      for (int step = 0; step < 5; ++step) {
        const auto logits = alone.forward({{0, {prompt[step + shift]}}});
        rows[s].insert(rows[s].end(), logits.begin(), logits.end());
      }
    }
    for (int step = 0; step < 5; ++step)
      for (int s : {2, 0, 1})
        apart.insert(apart.end(), rows[s].begin() + step * vocab, rows[s].begin() + (step + 1) * vocab);
    CHECK(distance(together, apart) < paths_differ(golden));
  }
}

TEST_CASE("the same work gives the same bits, in this process and with another backend") {
  const auto deterministic = [](Settings& settings) { settings.runtime.deterministic = true; };
  for (const std::string name : {"tiny-llama", "tiny-qwen3-q4_k", "tiny-gemma3"}) {
    CAPTURE(name);
    ModelRunner first = runner_of(name, deterministic);
    const std::vector<float> prefill = first.forward({{0, prompt_of(name)}});
    const std::vector<float> decode = token_by_token(first, {5, 6, 7});
    for (int i = 0; i < 3; ++i) {
      first.reset();
      CHECK(same_bits(first.forward({{0, prompt_of(name)}}), prefill));
      CHECK(same_bits(token_by_token(first, {5, 6, 7}), decode));
    }
    ModelRunner second = runner_of(name, deterministic);
    CHECK(same_bits(second.forward({{0, prompt_of(name)}}), prefill));
    CHECK(same_bits(token_by_token(second, {5, 6, 7}), decode));
  }
}

TEST_CASE("the device that does not exist is refused by its number") {
  const Settings settings;
  for (int device : {-1, 1000}) {
    try {
      make_cuda_backend({.settings = &settings, .force_isa = {}, .force_linear = {}}, device);
      FAIL("made a backend for device ", device);
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::invalid_argument);
      CHECK(std::string(error.what()).find(cat("no CUDA device ", device)) != std::string::npos);
    }
  }
}

TEST_CASE("a prompt of 200 tokens: bf16 between the ops, fp8 where asked for, against the CPU") {
  for (const std::string name : {"tiny-llama", "tiny-llama-q8_0", "tiny-qwen2", "tiny-qwen3-q4_k", "tiny-gemma3"}) {
    CAPTURE(name);
    std::vector<int32_t> prompt;
    for (int i = 0; i < 200; ++i) prompt.push_back(3 + (i * 37 + i * i) % 250);
    const auto logits = [&](RunnerOptions options) {
      options.max_tokens = options.max_context = 256;
      return ModelRunner(data_path(name + ".gguf"), options).forward({{0, prompt}});
    };
    const auto exact = [](Settings& settings) { settings.gemm.no_mmvq = true; };
    const std::vector<float> cpu = logits({.configure = exact}), bf16 = logits(on_device()),
                             fp8 = logits(
                                 on_device([](Settings& settings) { settings.attention.fp8_prefill = "always"; }));
    MESSAGE(name, ": bf16 off by ", distance(bf16, cpu), ", fp8 by ", distance(fp8, cpu));
    CHECK(distance(bf16, cpu) < kBf16Prefill);
    // e4m3 keeps 4 bits: each product errs by some 3 % (test_linear), and these models have little to average. Seen:
    // 0.24.
    CHECK(distance(fp8, cpu) < 0.3);
    CHECK(distance(fp8, cpu) > 2 * distance(bf16, cpu));
  }
}
