#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "cpu/isa.h"
#include "support/compare.h"
#include "support/model_runner.h"
#include "support/tiny_models.h"

// Tiny random models against the logits of Hugging Face, and the equalities that must hold whatever the logits are.
// tools/make_goldens.py made the files and says what they hold.

using namespace imp;
using namespace imp::test;

namespace {

// Against logits computed with the same rounding of keys and values to f16 (and of activations to int8), only the order
// of sums differs; but a value near the middle between two f16 numbers may round the other way, 2^-11 of one key: seen
// to come to 2e-4 of the logits at most. (A window one token too wide changes them by 4e-1.)
constexpr double kSharpTolerance = 3e-4;
// The same for int8: one step is 2^-7 of the largest of 32, outliers included, and small models have little to average.
constexpr double kInt8Tolerance = 1e-2;
// Against plain fp32 logits: what f16 keys and values cost, 4e-4 to 1e-3 of the logits (printed by make_goldens.py).
constexpr double kPlainTolerance = 3e-3;

bool machine_has(const std::string& isa) {
  try {
    cpu::choose_isa(isa);
    return true;
  } catch (const Error& error) {
    REQUIRE(error.code() == ErrorCode::unsupported);
    MESSAGE("not tested here: ", isa);
    return false;
  }
}

}  // namespace

TEST_CASE("logits of the reference equal Hugging Face's") {
  for (const Golden& golden : kGoldens) {
    const std::string name = golden.name;
    CAPTURE(name);
    ModelRunner runner(data_path(name + ".gguf"), {.force_isa = "reference"});
    const std::vector<float> logits = runner.forward({{0, prompt_of(name)}});
    CHECK(distance(logits, expected(name, "f16kv")) < kSharpTolerance);
    CHECK(distance(logits, expected(name, "logits")) < kPlainTolerance);
  }
}

TEST_CASE("logits of every instruction set's kernels equal Hugging Face's, in one batch and token by token") {
  for (const std::string isa : {"avx2", "avx512"}) {
    if (!machine_has(isa)) continue;
    for (const Golden& golden : kGoldens) {
      const std::string name = golden.name;
      CAPTURE(name);
      CAPTURE(isa);
      const std::vector<float> oracle = expected(name, golden.block_format ? "int8" : "f16kv");
      const double tolerance = golden.block_format ? kInt8Tolerance : kSharpTolerance;
      ModelRunner runner(data_path(name + ".gguf"), {.force_isa = isa});
      CHECK(distance(runner.forward({{0, prompt_of(name)}}), oracle) < tolerance);

      runner.reset();
      std::vector<float> decoded;
      for (const int32_t token : prompt_of(name)) {
        const std::vector<float> logits = runner.forward({{0, {token}}});
        decoded.insert(decoded.end(), logits.begin(), logits.end());
      }
      CHECK(distance(decoded, oracle) < tolerance);
    }
  }
}

TEST_CASE("the residual stream of every layer equals Hugging Face's") {
  struct Recorder : ForwardObserver {
    std::vector<float> hidden;
    int num_activations = 0;
    void on_hidden(int, TensorView view) override {
      for (int64_t row = 0; row < view.rows; ++row) {
        hidden.insert(hidden.end(), view.row<float>(row), view.row<float>(row) + view.cols);
      }
    }
    void on_ffn_activation(int, TensorView) override { ++num_activations; }
  };
  const std::string name = "tiny-llama";
  for (const std::string isa : {"reference", ""}) {
    CAPTURE(isa);
    ModelRunner runner(data_path(name + ".gguf"), {.force_isa = isa});
    Recorder recorder;
    runner.decoder().set_observer(&recorder);
    runner.forward({{0, prompt_of(name)}});
    CHECK(distance(recorder.hidden, expected(name, "hidden")) < kSharpTolerance);
    CHECK(recorder.num_activations == runner.spec().num_layers);
  }
}

TEST_CASE("exit_layer gives the model cut off after that layer") {
  const std::string name = "tiny-llama";
  const std::vector<int32_t> prompt = prompt_of(name);
  ModelRunner cut(data_path(name + ".gguf"), {.decoder = {.exit_layer = 0}});
  CHECK(distance(cut.forward({{0, prompt}}), expected(name, "exit0")) < kSharpTolerance);
  ModelRunner last(data_path(name + ".gguf"), {.decoder = {.exit_layer = 2}});
  ModelRunner whole(data_path(name + ".gguf"));
  CHECK(same_bits(last.forward({{0, prompt}}), whole.forward({{0, prompt}})));
}

TEST_CASE("no_logit_softcap gives the logits before the cap") {
  const std::string name = "tiny-gemma3-softcap";
  ModelRunner capped(data_path(name + ".gguf"));
  ModelRunner raw(data_path(name + ".gguf"), {.decoder = {.no_logit_softcap = true}});
  const std::vector<float> with = capped.forward({{0, prompt_of(name)}});
  std::vector<float> without = raw.forward({{0, prompt_of(name)}});
  const float cap = capped.spec().logit_softcap;
  CHECK(cap == 10.0f);
  CHECK(*std::max_element(without.begin(), without.end()) > cap);
  for (float& logit : without) logit = cap * std::tanh(logit / cap);
  CHECK(distance(without, with) < 1e-6);
}
