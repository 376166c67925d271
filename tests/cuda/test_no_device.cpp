#include <doctest/doctest.h>

#include "backend/device_facts.h"
#include "backend/prefill_weights.h"
#include "core/error.h"
#include "engine/memory_plan.h"
#include "exec/backend.h"
#include "formats/model_file.h"
#include "model/weights.h"
#include "runtime/check.h"

// What is said where no device can be used. Runs on every machine.

using namespace imp;
using namespace imp::cuda;

namespace {

DeviceFacts good() {
  return {.driver_version = 13010,
          .runtime_version = 13000,
          .error = {},
          .num_devices = 2,
          .index = 1,
          .name = "NVIDIA H100 80GB HBM3",
          .major = 9,
          .minor = 0,
          .architectures = "90a,120a"};
}

}  // namespace

TEST_CASE("a device that can be used, and one line for each reason why another cannot") {
  CHECK(why_unusable(good()) == "");
  DeviceFacts facts = good();
  facts.driver_version = 0;
  CHECK(why_unusable(facts) == "no CUDA driver on this machine");
  facts = good();
  facts.driver_version = 12040;
  CHECK(why_unusable(facts) == "the driver supports CUDA 12.4, and this build needs 13.0; update the driver");
  facts = good();
  facts.error = "system not yet initialized";
  CHECK(why_unusable(facts) == "the CUDA driver answers: system not yet initialized");
  facts = good();
  facts.num_devices = 0;
  CHECK(why_unusable(facts) == "no CUDA device on this machine");
  for (int index : {-1, 2}) {
    facts = good();
    facts.index = index;
    CHECK(why_unusable(facts) == cat("there is no CUDA device ", index, "; this machine has 0 to 1"));
  }
  facts = good();
  facts.index = 3, facts.num_devices = 1;
  CHECK(why_unusable(facts) == "there is no CUDA device 3; this machine has device 0 alone");
  facts = good();
  facts.name = "NVIDIA A100", facts.major = 8;
  CHECK(why_unusable(facts) ==
        "NVIDIA A100 is sm_80, and this build has kernels for 90a,120a only; build with "
        "IMP_CUDA_ARCHITECTURES=80");
  facts = good();
  facts.architectures = "90,120a";  // what is made for 90 without the "a" has no wgmma in it
  CHECK(why_unusable(facts) ==
        "NVIDIA H100 80GB HBM3 is sm_90, and this build has kernels for 90,120a only; build with "
        "IMP_CUDA_ARCHITECTURES=90a");
  facts = good();
  facts.name = "Tesla V100", facts.major = 7;
  CHECK(why_unusable(facts) == "Tesla V100 is sm_70, and imp needs sm_80 or later");
}

TEST_CASE("an architecture's code runs on later minors, unless it is for that one alone") {
  CHECK(has_kernels_for("90a,120a", 9, 0));
  CHECK(has_kernels_for("90a,120a", 12, 0));
  CHECK_FALSE(has_kernels_for("90a,120a", 12, 1));
  CHECK_FALSE(has_kernels_for("90a,120a", 10, 0));
  CHECK(has_kernels_for("80", 8, 6));
  CHECK_FALSE(has_kernels_for("86", 8, 0));
  CHECK_FALSE(has_kernels_for("80", 9, 0));
  CHECK_FALSE(has_kernels_for("", 9, 0));
  CHECK_FALSE(has_kernels_for("90", 9, 0));
  CHECK(has_kernels_for("90,90a", 9, 0));
  CHECK(has_kernels_for("80,100f", 10, 3));
}

TEST_CASE("the backend of this machine: made, or refused with the reason") {
  const std::string reason = why_no_cuda();
  CHECK(reason.find('\n') == std::string::npos);
  if (reason.empty()) return;
  try {
    make_cuda_backend({}, 0);
    FAIL("made a backend although ", reason);
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::cuda);
    CHECK(std::string(error.what()) == cat("cannot use CUDA device 0: ", reason, "; use device \"cpu\""));
  }
}

TEST_CASE("what went wrong is named with what can be done; only a lost device is lost") {
  const auto text_of = [](cudaError_t status) -> std::string {
    try {
      check(status, "attention_decode");
    } catch (const Error& error) {
      CHECK(error.code() == (status == cudaErrorMemoryAllocation ? ErrorCode::out_of_memory : ErrorCode::cuda));
      return error.what();
    }
    return "";
  };
  CHECK(text_of(cudaSuccess) == "");
  for (const cudaError_t status : {cudaErrorIllegalAddress, cudaErrorLaunchFailure, cudaErrorMisalignedAddress,
                                   cudaErrorAssert, cudaErrorIllegalInstruction}) {
    const std::string text = text_of(status);
    CHECK(text.find(std::string("attention_decode: ") + cudaGetErrorName(status)) == 0);
    CHECK(text.find("start a new one. With runtime.debug_raw = true") != std::string::npos);
    CHECK(text.find('\n') == std::string::npos);
    CHECK(is_sticky(status));
  }
  for (const cudaError_t status : {cudaErrorECCUncorrectable, cudaErrorNvlinkUncorrectable})
    CHECK(text_of(status).find("look at nvidia-smi") != std::string::npos);
  CHECK(text_of(cudaErrorMemoryAllocation).find("close other programs that use the GPU") != std::string::npos);
  CHECK(text_of(cudaErrorNoKernelImageForDevice).find("imp doctor") != std::string::npos);
  for (const cudaError_t status : {cudaErrorInvalidValue, cudaErrorMemoryAllocation, cudaErrorStreamCaptureUnsupported})
    CHECK_FALSE(is_sticky(status));
}

TEST_CASE("too little memory on a device: what it needs, what is there, and a budget that would do") {
  // An 8B model in Q8_0 with the workspace of the CUDA backend.
  MemoryQuery query{.device_free_bytes = uint64_t{6} << 30,
                    .budget_bytes = 0,
                    .weight_bytes = uint64_t{8} << 30,
                    .workspace_bytes = uint64_t{1} << 30,
                    .vocab_size = 151936,
                    .kv = {.layers = std::vector<KvLayerShape>(36, {8, 128})},
                    .model_context = 40960,
                    .max_seq_len = 0,
                    .max_batch_size = 4,
                    .max_step_tokens = 2048};
  std::string text;
  try {
    plan_memory(query);
    FAIL("planned more than there is");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::out_of_memory);
    text = error.what();
  }
  CHECK(text.find("the model does not fit: weights 8.0 GiB, workspace 1.0 GiB") == 0);
  CHECK(
      text.find("need a budget of 9.1 GiB, found 4.5 GiB (3/4 of the free 6.0 GiB); free memory (6.0 GiB are free)") !=
      std::string::npos);
  CHECK(text.find('\n') == std::string::npos);
  query.device_free_bytes = uint64_t{12} << 30;
  query.budget_bytes = static_cast<uint64_t>(9.2 * (1 << 30));
  const MemoryPlan plan = plan_memory(query);
  CHECK(plan.total_bytes() <= query.budget_bytes);
  CHECK(plan.max_seq_len >= 128);
  CHECK(plan.max_seq_len < 40960);
  CHECK(plan.table().find("max_seq_len reduced: ") != std::string::npos);
}

TEST_CASE("bf16 copies of an 8B model: on cards for servers, not on small ones, and never from the KV pool") {
  const TensorInfo q{.name = "q", .format = WeightFormat::q8_0, .shape = {4096, 4096}, .data = {}},
      kv{.name = "kv", .format = WeightFormat::q8_0, .shape = {1024, 4096}, .data = {}},
      gate{.name = "gate", .format = WeightFormat::q4_k, .shape = {12288, 4096}, .data = {}},
      down{.name = "down", .format = WeightFormat::q6_k, .shape = {4096, 12288}, .data = {}},
      half{.name = "o", .format = WeightFormat::bf16, .shape = {4096, 4096}, .data = {}};
  ModelTensors tensors;
  tensors.layers.resize(36);
  for (ModelTensors::ByRole& layer : tensors.layers) {
    const auto set = [&](WeightRole role, const TensorInfo& tensor) { layer[static_cast<size_t>(role)] = &tensor; };
    set(WeightRole::q_proj, q), set(WeightRole::k_proj, kv), set(WeightRole::v_proj, kv), set(WeightRole::o_proj, q);
    set(WeightRole::gate_proj, gate), set(WeightRole::up_proj, gate), set(WeightRole::down_proj, down);
  }
  const uint64_t bytes = PrefillWeights::bf16_bytes(tensors);
  CHECK(bytes == uint64_t{36} * 2 * 4096 * (4096 + 1024 + 1024 + 4096 + 3 * 12288));
  ModelTensors without_o = tensors;
  for (auto& layer : without_o.layers) layer[static_cast<size_t>(WeightRole::o_proj)] = &half;
  CHECK(PrefillWeights::bf16_bytes(without_o) == bytes - uint64_t{36} * 2 * 4096 * 4096);
  without_o.scales.emplace_back(&q, 0.5f);
  CHECK(PrefillWeights::bf16_bytes(without_o) == 0);

  const auto plan = [&](uint64_t gigabytes, uint64_t copies) {
    const uint64_t total = gigabytes << 30;
    return plan_memory({.device_free_bytes = total - (uint64_t{1} << 29),
                        .device_total_bytes = total,
                        .budget_bytes = 0,
                        .weight_bytes = uint64_t{8} << 30,
                        .workspace_bytes = uint64_t{1} << 30,
                        .prefill_copy_bytes = copies,
                        .vocab_size = 151936,
                        .kv = {.layers = std::vector<KvLayerShape>(36, {8, 128})},
                        .model_context = 40960,
                        .max_seq_len = 0,
                        .max_batch_size = 4,
                        .max_step_tokens = 4096});
  };
  for (const auto& [gigabytes, kept] : {std::pair<uint64_t, bool>{140, true}, {80, true}, {48, false}, {24, false}}) {
    CAPTURE(gigabytes);
    const MemoryPlan with = plan(gigabytes, bytes), without = plan(gigabytes, 0);
    CHECK((with.prefill_copy_bytes == bytes) == kept);
    CHECK((with.prefill_copy_bytes == 0) == !kept);
    CHECK(with.no_copies.empty() == kept);
    CHECK(with.num_blocks == without.num_blocks);
    CHECK(with.max_seq_len == without.max_seq_len);
  }
}

TEST_CASE("without a driver there are no devices to list, and nothing to measure") {
  if (why_no_cuda().empty()) return;
  for (const CudaDevice& device : cuda_devices()) CHECK(device.why_not != "");
  CHECK_THROWS_AS(cuda_read_bandwidth(0), Error);
}

TEST_CASE("each device is looked at by its own number") {
  const size_t count = cuda_devices().size();
  const std::string reason = why_no_cuda(1 << 20);
  if (count > 0)
    CHECK(reason.find(cat("there is no CUDA device ", 1 << 20)) == 0);
  else
    CHECK(reason == why_no_cuda());
}
