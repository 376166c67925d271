#pragma once
#include <doctest/doctest.h>

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "engine/engine.h"

namespace imp::test {

using Overrides = std::vector<std::pair<std::string, std::string>>;

inline std::string tiny_model(const std::string& name = "tiny-llama") {
  return std::string(IMP_TEST_DATA) + "/models/" + name + ".gguf";
}

/// What tests choose of an engine besides its configuration.
struct EngineChoice {
  std::string path = tiny_model();
  std::string device = "cpu";
  int num_threads = 1;
  uint64_t budget_bytes = 0;
  std::string force_sampling = {};
};
inline Engine engine_with(const EngineChoice& choice, const Overrides& overrides = {}) {
  Config config;
  for (const auto& [key, value] : overrides) config.set(key, value);
  return Engine({.model_path = choice.path,
                 .device = choice.device,
                 .num_threads = choice.num_threads,
                 .memory_budget_bytes = choice.budget_bytes,
                 .force_isa = {},
                 .force_linear = {},
                 .force_sampling = choice.force_sampling},
                std::move(config));
}

inline Engine make_engine(const Overrides& overrides = {}, const std::string& name = "tiny-llama",
                          uint64_t budget_bytes = 0, const std::string& force_sampling = "") {
  return engine_with({.path = tiny_model(name), .budget_bytes = budget_bytes, .force_sampling = force_sampling},
                     overrides);
}

/// What `call` says that it throws, which must be an Error of `code`.
inline std::string error_of(const std::function<void()>& call, ErrorCode code = ErrorCode::invalid_argument) {
  try {
    call();
  } catch (const Error& error) {
    CHECK(error.code() == code);
    return error.what();
  }
  FAIL("no error");
  return "";
}

struct Completion {
  std::vector<TokenId> tokens;
  std::string text;
  FinishReason finish = FinishReason::none;
  std::string stop_reason;
  std::vector<std::vector<TokenLogprob>> logprobs;
  bool operator==(const Completion& other) const { return tokens == other.tokens && text == other.text; }
};

/// Steps until nothing is left to do; what each sequence of each request came to. Fails where a sequence goes on after
/// its end.
inline std::map<std::pair<RequestId, int>, Completion> finish_all(Engine& engine) {
  std::map<std::pair<RequestId, int>, Completion> all;
  while (engine.has_work()) {
    for (TokenEvent& event : engine.step()) {
      Completion& out = all[{event.request, event.index}];
      REQUIRE(out.finish == FinishReason::none);
      out.tokens.insert(out.tokens.end(), event.tokens.begin(), event.tokens.end());
      out.text += event.text;
      out.finish = event.finish;
      out.stop_reason = event.stop_reason;
      out.logprobs.insert(out.logprobs.end(), event.logprobs.begin(), event.logprobs.end());
    }
  }
  return all;
}

inline Completion complete(Engine& engine, const std::vector<TokenId>& prompt, const SamplingParams& params) {
  const RequestId id = engine.submit(prompt, params);
  Completion out = finish_all(engine).at({id, 0});
  engine.forget(id);
  return out;
}

inline SamplingParams greedy(int32_t max_tokens) {
  SamplingParams params;
  params.temperature = 0;
  params.max_tokens = max_tokens;
  params.ignore_eos = true;
  return params;
}

inline std::vector<TokenId> prompt_of(int length, int seed = 1) {
  std::vector<TokenId> ids;
  for (int i = 0; i < length; ++i) ids.push_back(3 + (i * 37 + seed * 101 + i * i * seed) % 250);
  return ids;
}

/// The number after the last of `keys`, each searched for after the one before; -1 where one is missing.
inline double report_number(const std::string& json, const std::vector<std::string>& keys) {
  size_t at = 0;
  for (const std::string& key : keys) {
    const size_t found = json.find("\"" + key + "\":", at);
    if (found == std::string::npos) return -1;
    at = found + key.size() + 3;
  }
  return std::stod(json.substr(at, 32));
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// Kernels run so far whose name contains `part`.
inline double launches_of(const Engine& engine, const std::string& part) {
  const std::string report = engine.report_json();
  const size_t begin = report.find("\"launches\":{") + 12;
  const std::string list = report.substr(begin, report.find('}', begin) - begin);
  double sum = 0;
  for (size_t at = list.find('"'); at != std::string::npos;) {
    const size_t colon = list.find(':', at);
    if (contains(list.substr(at, colon - at), part)) sum += std::stod(list.substr(colon + 1));
    at = list.find('"', colon);
  }
  return sum;
}

}  // namespace imp::test
