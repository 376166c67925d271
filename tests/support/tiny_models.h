#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "support/npy.h"

namespace imp::test {

/// A tiny random model that tools/make_goldens.py made, with logits by Hugging Face.
struct Golden {
  const char* name;
  bool block_format;  // fast kernels round activations to int8, the reference does not
};

inline constexpr Golden kGoldens[] = {
    {"tiny-llama", false},     {"tiny-llama3", false},         {"tiny-llama-yarn", false}, {"tiny-llama-linear", false},
    {"tiny-llama-q8_0", true}, {"tiny-qwen2", false},          {"tiny-qwen3", false},      {"tiny-qwen3-q4_k", true},
    {"tiny-gemma3", false},    {"tiny-gemma3-softcap", false},
};

inline std::string data_path(const std::string& name) { return std::string(IMP_TEST_DATA) + "/models/" + name; }

inline std::vector<int32_t> prompt_of(const std::string& name) {
  return read_npy<int32_t>(data_path(name + ".ids.npy")).values;
}

/// What make_goldens.py calls `kind`: how keys, values and activations are rounded.
inline std::vector<float> expected(const std::string& name, const std::string& kind) {
  return read_npy<float>(data_path(name + "." + kind + ".npy")).values;
}

}  // namespace imp::test
