#pragma once
#include <string>

#include "support/engine_runs.h"

namespace imp::test {

/// An engine on the device, with a small pool.
inline Engine on_device(const Overrides& overrides = {}, const std::string& name = "tiny-llama",
                        const std::string& force_sampling = "", uint64_t budget_bytes = uint64_t{512} << 20) {
  return engine_with(
      {.path = tiny_model(name), .device = "cuda", .budget_bytes = budget_bytes, .force_sampling = force_sampling},
      overrides);
}

/// One model a family, and the formats that have kernels of their own.
inline constexpr const char* kTinyModels[] = {"tiny-llama", "tiny-llama-q8_0", "tiny-qwen2", "tiny-qwen3-q4_k",
                                              "tiny-gemma3"};

/// Times are taken between ops, so that steps are never replayed.
inline const Overrides kEager = {{"diagnostics.profile", "true"}};

}  // namespace imp::test
