#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "support/model_runner.h"
#include "support/npy.h"

// Tiny random models against the logits of Hugging Face, and the equalities that must hold whatever the logits are.
// tools/make_goldens.py made the files and says what they hold.

using namespace imp;
using namespace imp::test;

namespace {

struct Golden {
  const char* name;
  // How far the fast kernels may be from Hugging Face: they round activations to int8 for block formats.
  double fast_tolerance;
};

// Against logits computed with the same f16 rounding of keys and values, only the order of sums differs; but a sum near
// the middle between two f16 numbers may round the other way, which moves one key by 2^-11 of itself.
constexpr double kSharpTolerance = 1e-4;
// Against plain fp32 logits: what f16 keys and values cost, 4e-4 to 4e-3 of the logits (printed by make_goldens.py).
constexpr double kPlainTolerance = 8e-3;
constexpr double kInt8Tolerance = 3e-2;

constexpr Golden kGoldens[] = {
    {"tiny-llama", kSharpTolerance},          {"tiny-llama3", kSharpTolerance},    {"tiny-llama-yarn", kSharpTolerance},
    {"tiny-llama-linear", kSharpTolerance},   {"tiny-llama-q8_0", kInt8Tolerance}, {"tiny-qwen2", kSharpTolerance},
    {"tiny-qwen3", kSharpTolerance},          {"tiny-qwen3-q4_k", kInt8Tolerance}, {"tiny-gemma3", kSharpTolerance},
    {"tiny-gemma3-softcap", kSharpTolerance},
};

std::string data_path(const std::string& name) { return std::string(IMP_TEST_DATA) + "/models/" + name; }

std::vector<int32_t> prompt_of(const std::string& name) {
  return read_npy<int32_t>(data_path(name + ".ids.npy")).values;
}

std::vector<float> expected(const std::string& name, const std::string& kind) {
  return read_npy<float>(data_path(name + "." + kind + ".npy")).values;
}

/// |a - b| / |b|, Euclidean; infinite where a is not finite.
double distance(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double error = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i])) return INFINITY;
    error += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
    norm += double(b[i]) * b[i];
  }
  return std::sqrt(error / norm);
}

std::vector<float> tail_rows(const std::vector<float>& logits, int64_t rows, int64_t vocab_size) {
  return {logits.end() - rows * vocab_size, logits.end()};
}

}  // namespace

TEST_CASE("logits equal Hugging Face's") {
  for (const Golden& golden : kGoldens) {
    for (const std::string isa : {"reference", ""}) {
      CAPTURE(golden.name);
      CAPTURE(isa);
      ModelRunner runner(data_path(std::string(golden.name) + ".gguf"), {.force_isa = isa});
      const std::vector<float> logits = runner.forward({{0, prompt_of(golden.name)}});
      const double sharp = isa.empty() ? golden.fast_tolerance : kSharpTolerance;
      CHECK(distance(logits, expected(golden.name, "f16kv")) < sharp);
      CHECK(distance(logits, expected(golden.name, "logits")) < sharp + kPlainTolerance);
    }
  }
}
