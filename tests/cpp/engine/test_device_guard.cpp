#include <doctest/doctest.h>

#include "config/config.h"
#include "engine/device_guard.h"

using namespace imp;

namespace {

std::string text_of(const std::function<void()>& call, ErrorCode code) {
  try {
    call();
  } catch (const Error& error) {
    CHECK(error.code() == code);
    return error.what();
  }
  return "";
}

/// A device with memory of its own, on which nothing runs.
class FakeDevice final : public Backend {
 public:
  std::string_view name() const override { return "fake"; }
  std::string device_name() const override { return "fake"; }
  uint64_t total_memory_bytes() const override { return 0; }
  uint64_t free_memory_bytes() const override { return 0; }
  bool memory_is_host() const override { return false; }
  void* allocate(uint64_t, MemoryTag) override { return nullptr; }
  std::map<MemoryTag, uint64_t> memory_by_tag() const override { return {}; }
  WeightView prepare_weight(const TensorInfo&, LinearRole) override { return {}; }
  const float* prepare_vector(const TensorInfo&) override { return nullptr; }
  std::string last_step() const override { return "a step of words"; }
  void embed(const EmbedArgs&) override {}
  void rms_norm(const RmsNormArgs&) override {}
  void linear(const LinearArgs&) override {}
  void qk_rope_kv(const QkRopeKvArgs&) override {}
  void attention(const AttentionArgs&) override {}
  void softcap(const SoftcapArgs&) override {}
  void sample(const SampleArgs&) override {}
  void upload(void*, const void*, uint64_t) override {}
  void download(void*, const void*, uint64_t) override {}
  void copy_kv_block(const KvLayerView&, int, int) override {}
  std::vector<Verdict> explain_linear(const LinearQuery&) const override { return {}; }
  std::vector<Verdict> explain_attention(const AttentionQuery&) const override { return {}; }
  std::map<std::string, int64_t> launches() const override { return {}; }
  std::map<std::string, OpProfile> profile() const override { return {}; }
};

}  // namespace

TEST_CASE("the first failure of a device is what every later call gets") {
  const Settings settings;
  const auto backend = make_cpu_backend({.settings = &settings, .force_isa = {}, .force_linear = {}});
  DeviceGuard guard;
  CHECK(guard.run(*backend, [] { return 7; }) == 7);
  CHECK_FALSE(guard.failure());

  const auto lost = [&] { guard.run(*backend, [] { fail(ErrorCode::cuda, "gemv: the device is lost"); }); };
  const std::string first = text_of(lost, ErrorCode::cuda);
  CHECK(first.find("gemv: the device is lost; ") == 0);
  bool ran = false;
  CHECK(text_of([&] { guard.run(*backend, [&] { ran = true; }); }, ErrorCode::cuda) == first);
  CHECK_FALSE(ran);
  CHECK(text_of([&] { guard.check(); }, ErrorCode::cuda) == first);
  CHECK(guard.failure()->what() == first);
}

TEST_CASE("an error that is not the device's passes, and nothing is kept") {
  const Settings settings;
  const auto backend = make_cpu_backend({.settings = &settings, .force_isa = {}, .force_linear = {}});
  DeviceGuard guard;
  const auto refused = [&] { guard.run(*backend, [] { fail(ErrorCode::unsupported, "no kernel"); }); };
  CHECK(text_of(refused, ErrorCode::unsupported) == "no kernel");
  const auto host_memory = [&] { guard.run(*backend, [] { fail(ErrorCode::out_of_memory, "no memory"); }); };
  CHECK(text_of(host_memory, ErrorCode::out_of_memory) == "no memory");
  CHECK_FALSE(guard.failure());
  CHECK_NOTHROW(guard.check());
}

TEST_CASE("a device that ran out of memory in a step has failed: what it holds is not known") {
  const FakeDevice device;
  DeviceGuard guard;
  const auto step = [&] { guard.run(device, [] { fail(ErrorCode::out_of_memory, "taking 5 GiB"); }); };
  const std::string first = text_of(step, ErrorCode::out_of_memory);
  CHECK(first == "taking 5 GiB; a step of words");
  CHECK(text_of([&] { guard.check(); }, ErrorCode::out_of_memory) == first);
}
