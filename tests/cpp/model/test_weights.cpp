#include <doctest/doctest.h>

#include <set>
#include <string>

#include "core/error.h"
#include "model/arch.h"
#include "model/weights.h"
#include "support/memory_model.h"

using namespace imp;
using test::MemoryModel;
using test::small_model;

namespace {

ModelTensors match(const MemoryModel& model) { return match_tensors(model, read_model_spec(model)); }

void check_refused(const MemoryModel& model, std::initializer_list<std::string_view> parts) {
  try {
    match(model);
    FAIL("accepted, though expected to be refused with: ", std::string(*parts.begin()));
  } catch (const Error& error) {
    const std::string message = error.what();
    CAPTURE(message);
    CHECK(error.code() == ErrorCode::invalid_model);
    for (const std::string_view part : parts) CHECK(message.find(part) != std::string::npos);
  }
}

}  // namespace

TEST_CASE("every tensor of every family has one role") {
  for (const Architecture& architecture : all_architectures()) {
    CAPTURE(architecture.name);
    const MemoryModel model = small_model(std::string(architecture.name));
    const ModelTensors tensors = match(model);
    std::multiset<const TensorInfo*> taken;
    const auto collect = [&](const ModelTensors::ByRole& roles) {
      for (const TensorInfo* tensor : roles) {
        if (tensor) taken.insert(tensor);
      }
    };
    collect(tensors.model);
    for (const ModelTensors::ByRole& layer : tensors.layers) collect(layer);
    CHECK(taken.size() == model.tensors().size());
    for (const TensorInfo& tensor : model.tensors()) CHECK(taken.count(&tensor) == 1);
    CHECK(tensors.of(1, WeightRole::down_proj)->name == "blk.1.ffn_down.weight");
    CHECK(tensors.of(WeightRole::lm_head)->name == "output.weight");
  }
}

TEST_CASE("a tied head has no tensor of its own") {
  CHECK(match(small_model("llama").drop_tensor("output.weight")).of(WeightRole::lm_head) == nullptr);
}

TEST_CASE("missing, misshapen and unknown tensors are refused") {
  check_refused(small_model("llama").drop_tensor("blk.1.ffn_up.weight"), {"blk.1.ffn_up.weight", "missing", "up_proj"});
  check_refused(small_model("qwen3").drop_tensor("blk.0.attn_k_norm.weight"), {"blk.0.attn_k_norm.weight", "missing"});
  check_refused(small_model("llama").tensor("blk.0.attn_q.bias", {64}), {"blk.0.attn_k.bias", "missing"});
  check_refused(small_model("llama").tensor("blk.0.attn_k.weight", {64, 64}),
                {"blk.0.attn_k.weight", "dimension 0", "is 64", "expected 32"});
  check_refused(small_model("llama").tensor("blk.0.ffn_down.weight", {64, 95}),
                {"blk.0.ffn_down.weight", "dimension 1", "is 95", "expected 96"});
  check_refused(small_model("llama").tensor("output_norm.weight", {64, 1}),
                {"output_norm.weight", "2 dimensions", "expected 1"});
  check_refused(small_model("qwen3").tensor("blk.0.attn_q.bias", {64}), {"blk.0.attn_q.bias", "no place", "qwen3"});
  check_refused(small_model("llama").tensor("blk.2.attn_norm.weight", {64}), {"blk.2.attn_norm.weight", "2 layers"});
}

TEST_CASE("tensors that follow from the metadata may be there") {
  MemoryModel model = small_model("llama");
  model.tensor("rope_freqs.weight", {8}, {1, 1, 1, 1, 2, 2, 2, 2}).tensor("blk.0.attn_rot_embd.inv_freq", {8});
  CHECK(match(model).layers.size() == 2);
}

TEST_CASE("NVFP4 weights take their factor from the tensor beside them") {
  MemoryModel model = small_model("llama");
  model.at("blk.0.attn_q.weight").format = WeightFormat::nvfp4;
  CHECK(match(model).scale_of(&model.at("blk.0.attn_q.weight")) == 1.0f);
  model.tensor("blk.0.attn_q.scale", {1}, {0.5f});
  CHECK(match(model).scale_of(&model.at("blk.0.attn_q.weight")) == 0.5f);
  CHECK(match(model).scale_of(&model.at("blk.1.attn_q.weight")) == 1.0f);
  model.tensor("blk.0.attn_q.scale", {2}, {0.5f, 0.5f});
  check_refused(model, {"blk.0.attn_q.scale", "one F32"});
  model = small_model("llama").tensor("blk.0.attn_q.scale", {1}, {0.5f});  // of a weight that is not NVFP4
  check_refused(model, {"blk.0.attn_q.scale", "no place"});
}
