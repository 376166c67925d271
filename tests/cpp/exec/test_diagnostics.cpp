#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "exec/diagnostics.h"
#include "support/compare.h"
#include "support/model_runner.h"
#include "support/npy.h"
#include "support/temp_dir.h"

using namespace imp;
using namespace imp::test;

namespace {

std::string data_path(const std::string& name) { return std::string(IMP_TEST_DATA) + "/models/" + name; }

std::vector<int32_t> prompt() { return read_npy<int32_t>(data_path("tiny-llama.ids.npy")).values; }

}  // namespace

TEST_CASE("hidden states are dumped for each layer and step, equal to Hugging Face's") {
  const TempDir temp;
  ModelRunner runner(data_path("tiny-llama.gguf"));
  HiddenDumper dumper(temp / "new/folder", runner.backend());
  runner.decoder().set_observer(&dumper);
  runner.forward({{0, prompt()}});
  runner.forward({{0, {5}}});

  const NpyArray<float> expected = read_npy<float>(data_path("tiny-llama.hidden.npy"));
  const size_t layer_size = static_cast<size_t>(expected.shape[1] * expected.shape[2]);
  double error = 0, norm = 0;
  for (int layer = 0; layer <= 3; ++layer) {
    const NpyArray<float> dumped = read_npy<float>(temp / "new/folder/hidden_L" + std::to_string(layer) + "_step0.npy");
    CHECK(dumped.shape == std::vector<int64_t>{40, 64});
    for (size_t i = 0; i < layer_size; ++i) {
      const double truth = expected.values[layer * layer_size + i];
      error += (dumped.values[i] - truth) * (dumped.values[i] - truth);
      norm += truth * truth;
    }
    CHECK(read_npy<float>(temp / "new/folder/hidden_L" + std::to_string(layer) + "_step1.npy").shape ==
          std::vector<int64_t>{1, 64});
  }
  CHECK(std::sqrt(error / norm) < 3e-4);
  const std::filesystem::directory_iterator files(temp / "new/folder");
  CHECK(std::distance(begin(files), end(files)) == 8);
}

TEST_CASE("a directory that cannot be made is an io error") {
  ModelRunner runner(data_path("tiny-llama.gguf"));
  CHECK_THROWS_WITH_AS(HiddenDumper("/proc/imp/dump", runner.backend()),
                       doctest::Contains("diagnostics.dump_hidden_dir"), Error);
  CHECK_THROWS_AS(HiddenDumper(data_path("tiny-llama.gguf"), runner.backend()), Error);
}

TEST_CASE("debug prints have two lines a layer and one for the embedding, and count what is not finite") {
  ModelRunner runner(data_path("tiny-llama.gguf"));
  std::vector<std::string> lines;
  ForwardPrinter printer([&](std::string_view line) { lines.emplace_back(line); }, runner.backend());
  const std::vector<float> plain = runner.forward({{0, prompt()}});
  runner.reset();
  runner.decoder().set_observer(&printer);
  CHECK(same_bits(runner.forward({{0, prompt()}}), plain));
  REQUIRE(lines.size() == 1 + 2 * 3);
  CHECK(lines[0].starts_with("embedding [40, 64] min="));
  CHECK(lines[1].starts_with("layer 0 ffn [40, 96] "));
  CHECK(lines[6].starts_with("layer 2 hidden [40, 64] "));
  CHECK(lines[6].find("nan=0 inf=0") != std::string::npos);

  std::vector<float> values = {1, -2, NAN, INFINITY, -INFINITY, 4};
  printer.on_hidden(7, f32_view(values.data(), 1, 6));
  CHECK(lines.back() == "layer 7 hidden [1, 6] min=-2 max=4 mean=1 nan=1 inf=2 first=1,-2,nan,inf");
}

TEST_CASE("the sparsity probe counts activations below each threshold") {
  ModelRunner runner(data_path("tiny-llama.gguf"));
  SparsityProbe probe(2, runner.backend());
  std::vector<float> values = {0, 0.004f, -0.004f, 0.005f, 0.015f, -0.03f, 0.07f, 3};
  probe.on_ffn_activation(1, f32_view(values.data(), 2, 4));
  const SparsityProbe::LayerCounts& counts = probe.layers()[1];
  CHECK(counts.total == 8);
  CHECK(counts.below == std::array<int64_t, 5>{3, 4, 5, 6, 7});
  CHECK(probe.layers()[0].total == 0);
  CHECK(probe.table().find("    1     37.5     50.0     62.5     75.0     87.5   8\n") != std::string::npos);

  SparsityProbe live(runner.spec().num_layers, runner.backend());
  ObserverList all;
  CHECK(all.empty());
  all.add(live);
  runner.decoder().set_observer(&all);
  runner.forward({{0, prompt()}});
  for (const SparsityProbe::LayerCounts& layer : live.layers()) {
    CHECK(layer.total == 40 * 96);
    CHECK(layer.below[0] <= layer.below[4]);
  }
}
