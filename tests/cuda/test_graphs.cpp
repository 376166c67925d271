#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "backend/device_memory.h"
#include "backend/step_graphs.h"
#include "config/config.h"
#include "core/error.h"
#include "norm/elementwise.h"
#include "support/capture_stderr.h"
#include "support/cuda_device.h"
#include "support/temp_dir.h"

// Recording and replaying steps, with one kernel for a step.

using namespace imp;
using namespace imp::cuda;
using namespace imp::test;

namespace {

constexpr StepShape kShape = {
    .num_tokens = 1, .num_logit_rows = 1, .num_sequences = 1, .max_query_len = 1, .max_context_len = 256};

/// A stream and a step that adds 1 to a value; `during` runs on the host while the step is called.
struct Rig {
  TestDevice device;
  LaunchContext context = device.context(true);
  DeviceArray<float> y{std::vector<float>{0, 0, 0, 0}}, bias{std::vector<float>{1, 1, 1, 1}};
  int64_t pdl_launches = 0;
  int calls = 0;
  std::function<void()> during;

  Rig() {
    check(cudaStreamCreateWithFlags(&context.stream, cudaStreamNonBlocking), "cudaStreamCreate");
    context.pdl_launches = &pdl_launches;
  }
  ~Rig() { static_cast<void>(cudaStreamDestroy(context.stream)); }
  void step(StepGraphs& graphs, const StepShape& shape = kShape) {
    graphs.run(shape, context, [&] {
      ++calls;
      if (during) during();
      add_bias(y.data(), 4, bias.data(), 1, 4, context);
    });
  }
  float value() {
    check(cudaStreamSynchronize(context.stream), "a step");
    return y.download()[0];
  }
};

/// What a strict capture forbids: memory taken by another thread.
void allocate_elsewhere() {
  std::thread([] {
    void* memory = nullptr;
    if (cudaMalloc(&memory, 1024) == cudaSuccess) static_cast<void>(cudaFree(memory));
    static_cast<void>(cudaGetLastError());
  }).join();
}

}  // namespace

TEST_CASE("the first step of a shape runs, the second is captured, the rest replayed; all are counted") {
  Rig rig;
  StepGraphs graphs;
  for (int i = 1; i <= 5; ++i) {
    rig.step(graphs);
    CHECK(rig.value() == i);
  }
  CHECK(rig.calls == 2);
  const GraphStats stats = graphs.stats(rig.context);
  CHECK(stats.captures == 1);
  CHECK(stats.replays == 4);
  CHECK(stats.refusals.empty());
  CHECK(stats.mode == "auto");
  CHECK(stats.capture_mode == "relaxed");
  CHECK(rig.device.launches.at("add_bias") == 5);
  CHECK(stats.pdl_launches == 5);
}

TEST_CASE("runtime.graph_capture_mode: memory taken by another thread breaks a global capture, and no relaxed one") {
  for (const std::string mode : {"relaxed", "thread_local", "global"}) {
    CAPTURE(mode);
    Rig rig;
    StepGraphs graphs({.capture_mode = mode});
    rig.step(graphs);
    rig.during = allocate_elsewhere;
    for (int i = 0; i < 3; ++i) rig.step(graphs);
    CHECK(rig.value() == 4);  // a refused step runs all the same, once
    const GraphStats stats = graphs.stats(rig.context);
    CHECK(stats.capture_mode == mode);
    if (mode == "global") {
      REQUIRE(stats.refusals.size() == 1);
      CHECK(stats.refusals[0].find("a step of 1 token of 1 sequence, context up to 256: ") == 0);
      CHECK(stats.refusals[0].find("Capture") != std::string::npos);
      CHECK(stats.captures == 0);
      CHECK(stats.replays == 0);
      CHECK(rig.device.launches.at("add_bias") == 4);
    } else {
      CHECK(stats.refusals.empty());
      CHECK(stats.captures == 1);
    }
  }
}

TEST_CASE("runtime.cuda_graphs = always: a step that cannot be recorded is an error that says why") {
  Rig rig;
  StepGraphs graphs({.mode = "always", .capture_mode = "global"});
  rig.step(graphs);
  rig.during = allocate_elsewhere;
  try {
    rig.step(graphs);
    FAIL("ran without a graph");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::cuda);
    const std::string text = error.what();
    CHECK(text.find("runtime.cuda_graphs is \"always\", and a step of 1 token") == 0);
    CHECK(text.find("\"auto\" runs such steps without a graph") != std::string::npos);
  }
  // Other shapes are not touched.
  rig.during = nullptr;
  StepShape other = kShape;
  other.num_tokens = 2;
  for (int i = 0; i < 2; ++i) rig.step(graphs, other);
  CHECK(rig.value() == 3);
  CHECK(graphs.stats(rig.context).captures == 1);
}

TEST_CASE("graphs are kept for the 128 shapes used last") {
  Rig rig;
  StepGraphs graphs;
  const auto shape_of = [](int tokens) {
    StepShape shape = kShape;
    shape.num_tokens = tokens;
    return shape;
  };
  int steps = 0;
  const auto step = [&](int tokens) { rig.step(graphs, shape_of(tokens)), ++steps; };
  for (int tokens = 1; tokens <= StepGraphs::kMaxGraphs; ++tokens)
    for (int time = 0; time < 2; ++time) step(tokens);
  CHECK(graphs.captures() == StepGraphs::kMaxGraphs);
  step(1);  // used again: shape 2 is now the one used longest ago
  for (int time = 0; time < 2; ++time) step(StepGraphs::kMaxGraphs + 1);
  CHECK(graphs.captures() == StepGraphs::kMaxGraphs + 1);
  step(1);
  step(3);
  CHECK(graphs.captures() == StepGraphs::kMaxGraphs + 1);  // both were there
  const int calls = rig.calls;
  step(2);
  CHECK(rig.calls == calls + 1);  // starts again, as it is
  step(2);
  CHECK(graphs.captures() == StepGraphs::kMaxGraphs + 2);
  CHECK(rig.value() == steps);
}

TEST_CASE("an error of the step itself is passed on, and the stream works on") {
  Rig rig;
  StepGraphs graphs;
  rig.step(graphs);
  rig.during = [] { fail(ErrorCode::unsupported, "no kernel"); };
  CHECK_THROWS_AS(rig.step(graphs), Error);
  rig.during = nullptr;
  for (int i = 0; i < 2; ++i) rig.step(graphs);
  CHECK(rig.value() == 3);
}

TEST_CASE("diagnostics.graph_diag tells of captures, refusals and replays as the report counts them") {
  TempDir dir;
  for (const bool log : {false, true}) {
    const std::string text = stderr_of(dir, [&] {
      Rig rig;
      StepGraphs graphs({.capture_mode = "global", .log = log});
      for (int i = 0; i < 4; ++i) rig.step(graphs);
      StepShape refused = kShape;
      refused.num_sequences = 2;
      rig.step(graphs, refused);
      rig.during = allocate_elsewhere;
      rig.step(graphs, refused);
    });
    if (!log) {
      CHECK(text == "");
      continue;
    }
    CHECK(text.find("imp: graph: capture (global): a step of 1 token of 1 sequence, context up to 256: 1 kernels, 0 "
                    "copies, 0 fills, 0 others\n") != std::string::npos);
    CHECK(text.find("imp: graph: refused: a step of 1 token of 2 sequences, context up to 256: ") != std::string::npos);
    CHECK(text.find("imp: graph: a step of 1 token of 1 sequence, context up to 256: replayed 3 times\n") !=
          std::string::npos);
  }
}

TEST_CASE("diagnostics.graph_dump_dir writes a file a capture, with the names of its kernels") {
  TempDir dir;
  Settings settings;
  settings.diagnostics.graph_dump_dir = dir / "graphs";
  Rig rig;
  StepGraphs graphs(graph_settings(settings));
  for (int i = 0; i < 3; ++i) rig.step(graphs);
  std::ostringstream text;
  text << std::ifstream(dir / "graphs/graph_tokens1_sequences1_query1_context256_rows1_drawn0.dot").rdbuf();
  CHECK(text.str().find("add_bias") != std::string::npos);
  CHECK(std::distance(std::filesystem::directory_iterator(dir / "graphs"), {}) == 1);

  settings.diagnostics.graph_dump_dir = "/dev/null/x";
  CHECK_THROWS_AS(graph_settings(settings), Error);
}

TEST_CASE("a diagnostic that needs the host between ops takes graphs away") {
  Settings settings;
  CHECK(StepGraphs(graph_settings(settings)).enabled());
  settings.diagnostics.profile = true;
  CHECK_FALSE(StepGraphs(graph_settings(settings)).enabled());
}
