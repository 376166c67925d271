#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "support/compare.h"
#include "support/model_runner.h"
#include "support/tiny_models.h"

// Equalities that hold whatever the logits are: how a sequence is cut into batches must not matter. Numbers may differ
// by rounding where another batch size takes another kernel (int8 activations for block formats: see kBlockTolerance).

using namespace imp;
using namespace imp::test;

namespace {

struct Model {
  const char* name;
  double tolerance;
};

constexpr double kSumTolerance = 3e-4;    // other orders of sums, and the f16 rounding of keys they flip
constexpr double kBlockTolerance = 3e-2;  // one kernel rounds activations to int8 where the other does not

constexpr Model kModels[] = {
    {"tiny-llama", kSumTolerance},        {"tiny-llama-yarn", kSumTolerance}, {"tiny-llama-q8_0", kBlockTolerance},
    {"tiny-qwen3-q4_k", kBlockTolerance}, {"tiny-gemma3", kSumTolerance},
};

std::vector<int32_t> slice(const std::vector<int32_t>& tokens, size_t begin, size_t end) {
  return {tokens.begin() + begin, tokens.begin() + std::min(end, tokens.size())};
}

void append(std::vector<float>& all, const std::vector<float>& more) {
  all.insert(all.end(), more.begin(), more.end());
}

}  // namespace

TEST_CASE("a prompt in chunks gives the logits of the whole, token by token included") {
  for (const Model& model : kModels) {
    const std::vector<int32_t> prompt = prompt_of(model.name);
    ModelRunner runner(data_path(std::string(model.name) + ".gguf"));
    const std::vector<float> whole = runner.forward({{0, prompt}});
    for (const size_t chunk : {1, 3, 7, 16, 17, 39}) {
      CAPTURE(model.name);
      CAPTURE(chunk);
      runner.reset();
      std::vector<float> pieces;
      for (size_t begin = 0; begin < prompt.size(); begin += chunk) {
        append(pieces, runner.forward({{0, slice(prompt, begin, begin + chunk)}}));
      }
      CHECK(distance(pieces, whole) < model.tolerance);
    }
  }
}

TEST_CASE("sequences in one ragged batch do not see each other") {
  for (const Model& model : kModels) {
    CAPTURE(model.name);
    const std::vector<int32_t> prompt = prompt_of(model.name);
    const std::string path = data_path(std::string(model.name) + ".gguf");
    // One decodes its 21st token, one starts with 9, one continues after 5 with 13, one has a single first token.
    const std::vector<int32_t> one = slice(prompt, 0, 20), two = slice(prompt, 20, 29), three = slice(prompt, 3, 21);
    ModelRunner batched(path, {.max_sequences = 4});
    batched.forward({{0, one}, {2, slice(three, 0, 5)}});
    const std::vector<float> together =
        batched.forward({{1, two}, {0, {prompt[39]}}, {3, {prompt[7]}}, {2, slice(three, 5, 18)}});

    std::vector<float> apart;
    ModelRunner alone(path);
    append(apart, alone.forward({{0, two}}));
    alone.reset();
    alone.forward({{0, one}});
    append(apart, alone.forward({{0, {prompt[39]}}}));
    alone.reset();
    append(apart, alone.forward({{0, {prompt[7]}}}));
    alone.reset();
    alone.forward({{0, slice(three, 0, 5)}});
    append(apart, alone.forward({{0, slice(three, 5, 18)}}));
    CHECK(distance(together, apart) < model.tolerance);
  }
}

TEST_CASE("the same work gives the same bits, with any number of threads") {
  for (const Model& model : kModels) {
    CAPTURE(model.name);
    const std::vector<int32_t> prompt = prompt_of(model.name);
    const std::string path = data_path(std::string(model.name) + ".gguf");
    ModelRunner first(path);
    const std::vector<float> prefill = first.forward({{0, prompt}});
    const std::vector<float> decode = first.forward({{0, {prompt[0]}}});
    first.reset();
    CHECK(same_bits(first.forward({{0, prompt}}), prefill));
    CHECK(same_bits(first.forward({{0, {prompt[0]}}}), decode));
    ModelRunner threaded(path, {.num_threads = 2});
    CHECK(same_bits(threaded.forward({{0, prompt}}), prefill));
    CHECK(same_bits(threaded.forward({{0, {prompt[0]}}}), decode));
  }
}

TEST_CASE("logits of the last row alone equal the last of all rows") {
  for (const Model& model : kModels) {
    CAPTURE(model.name);
    const std::vector<int32_t> prompt = prompt_of(model.name);
    ModelRunner runner(data_path(std::string(model.name) + ".gguf"), {.max_sequences = 2});
    const int64_t vocab_size = runner.spec().vocab_size;
    const std::vector<float> all = runner.forward({{0, prompt}, {1, slice(prompt, 0, 11)}});
    std::vector<float> expected(all.begin() + 39 * vocab_size, all.begin() + 40 * vocab_size);
    expected.insert(expected.end(), all.end() - vocab_size, all.end());
    runner.reset();
    CHECK(distance(runner.forward({{0, prompt}, {1, slice(prompt, 0, 11)}}, ModelRunner::Rows::last), expected) <
          model.tolerance);
  }
}

TEST_CASE("a chunk without logits still fills the cache") {
  ModelRunner runner(data_path("tiny-llama.gguf"));
  const std::vector<int32_t> prompt = prompt_of("tiny-llama");
  const std::vector<float> all = runner.forward({{0, prompt}});
  runner.reset();
  CHECK(runner.forward({{0, slice(prompt, 0, 30)}}, ModelRunner::Rows::none).empty());
  const std::vector<float> rest = runner.forward({{0, slice(prompt, 30, 40)}});
  const std::vector<float> expected(all.end() - static_cast<std::ptrdiff_t>(rest.size()), all.end());
  CHECK(distance(rest, expected) < kSumTolerance);
}

TEST_CASE("a windowed model forgets what lies before the window, a global one does not") {
  // Gemma 3's layers look at 8 tokens, but layer 5 at all: with it cut off, token 0 reaches position 5 * 7 at most.
  const std::vector<int32_t> prompt = prompt_of("tiny-gemma3");
  std::vector<int32_t> other = prompt;
  other[0] = prompt[0] == 3 ? 4 : 3;
  const auto changed_rows = [&](int exit_layer) {
    ModelRunner runner(data_path("tiny-gemma3.gguf"), {.decoder = {.exit_layer = exit_layer}});
    const std::vector<float> a = runner.forward({{0, prompt}});
    runner.reset();
    const std::vector<float> b = runner.forward({{0, other}});
    std::vector<bool> changed;
    for (size_t row = 0; row < prompt.size(); ++row) {
      const size_t begin = row * runner.spec().vocab_size, end = begin + runner.spec().vocab_size;
      changed.push_back(!std::equal(a.begin() + begin, a.begin() + end, b.begin() + begin));
    }
    return changed;
  };
  const std::vector<bool> first_layer = changed_rows(0);
  for (size_t row = 0; row < prompt.size(); ++row) CHECK(first_layer[row] == (row < 8));
  CHECK(changed_rows(5).back());
}
