#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include "config/config.h"
#include "exec/backend.h"
#include "norm/elementwise.h"
#include "support/child_process.h"
#include "support/cuda_device.h"
#include "support/engine_runs.h"

// What a failing device looks like from outside. A failure costs the process its device, so each one happens in a
// process of its own: this program, started again with one of the "child" cases, which are skipped otherwise.

using namespace imp;
using namespace imp::cuda;
using namespace imp::test;

namespace {

void must_be_clean(const std::string& name) {
  const ChildOutcome outcome = run_child(name);
  INFO(outcome.text);
  CHECK(outcome.exit == 0);
  CHECK(contains(outcome.text, "1 passed | 0 failed"));
  CHECK_FALSE(contains(outcome.text, "terminate"));
}

/// A kernel that writes where there is no memory, or not at a float's address; nobody waits for it.
void launch_bad_kernel(float* y, bool synchronous = false) {
  TestDevice device;
  LaunchContext context = device.context();
  context.synchronous = synchronous;
  const DeviceArray<float> bias(std::vector<float>(32, 1));
  add_bias(y, 32, bias.data(), 1, 32, context);
}

float* no_memory() { return reinterpret_cast<float*>(uintptr_t{0x100000}); }

const EngineChoice kOnDevice = {.device = "cuda", .budget_bytes = uint64_t{1} << 30};

/// "" where nothing went wrong yet: kernels fail later than the call that launches them.
std::string cuda_error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::cuda);
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a lost device is an error, then a refusal, then a report, and the process ends by itself") {
  must_be_clean("an engine whose device is lost");
  must_be_clean("an engine that is running");
}

TEST_CASE("waiting for each kernel names the one that failed") {
  must_be_clean("a named kernel");
  must_be_clean("a misaligned address");
}

TEST_CASE("too little memory is an error, and the device works on") { must_be_clean("memory that is not there"); }

TEST_CASE("child: an engine whose device is lost" * doctest::skip()) {
  Engine engine = engine_with(kOnDevice);
  CHECK(complete(engine, prompt_of(20), greedy(8)).tokens.size() == 8);
  CHECK(contains(engine.report_json(), "\"failure\":null"));
  launch_bad_kernel(no_memory());
  engine.submit(prompt_of(20), greedy(8));
  const std::string first = cuda_error_of([&] { engine.step(); });
  INFO(first);
  CHECK(contains(first, "cudaErrorIllegalAddress"));
  CHECK(contains(first, "start a new one"));
  CHECK(contains(first, "runtime.debug_raw"));
  CHECK(cuda_error_of([&] { engine.step(); }) == first);
  CHECK(cuda_error_of([&] { engine.submit(prompt_of(5), greedy(2)); }) == first);
  CHECK(cuda_error_of([&] { engine.logits(prompt_of(5), false); }) == first);
  CHECK(cuda_error_of([&] { engine.bench_decode(5); }) == first);
  const std::string report = engine.report_json();
  CHECK(contains(report, "\"failure\":\""));
  CHECK(contains(report, "cudaErrorIllegalAddress"));
  CHECK(contains(engine.explain_json({1}), "\"role\":\"qkv\""));
  engine.reset();
}

TEST_CASE("child: an engine that is running" * doctest::skip()) {
  Engine engine = engine_with(kOnDevice, {{"runtime.warmup", "true"}});
  engine.submit(prompt_of(20), greedy(200));
  for (int i = 0; i < 10; ++i) engine.step();
  launch_bad_kernel(no_memory());
  std::string text;
  for (int i = 0; i < 5 && text.empty(); ++i) text = cuda_error_of([&] { engine.step(); });
  CHECK(contains(text, "cudaErrorIllegalAddress"));
  CHECK(contains(text, "the step before was a step of 1 token"));
  CHECK(contains(text, "attention"));  // the kernels it ran
}

TEST_CASE("child: a named kernel" * doctest::skip()) {
  const std::string text = cuda_error_of([] { launch_bad_kernel(no_memory(), true); });
  CHECK(text.find("add_bias: cudaErrorIllegalAddress: ") == 0);
}

TEST_CASE("child: a misaligned address" * doctest::skip()) {
  const std::string text =
      cuda_error_of([] { launch_bad_kernel(reinterpret_cast<float*>(uintptr_t{0x100001}), true); });
  CHECK(text.find("add_bias: cudaError") == 0);
  CHECK(contains(text, "start a new one"));
}

TEST_CASE("child: memory that is not there" * doctest::skip()) {
  const Settings settings;
  const auto backend = make_cuda_backend({.settings = &settings, .force_isa = {}, .force_linear = {}}, 0);
  const std::string text =
      error_of([&] { backend->allocate(uint64_t{1} << 50, MemoryTag::other); }, ErrorCode::out_of_memory);
  CHECK(contains(text, "close other programs that use the GPU"));
  CHECK(contains(text, "1024.0 TiB"));
  float value = 5;
  void* memory = backend->allocate(sizeof value, MemoryTag::other);
  backend->upload(memory, &value, sizeof value);
  value = 0;
  backend->download(&value, memory, sizeof value);
  CHECK(value == 5);
}
