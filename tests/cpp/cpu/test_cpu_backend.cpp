#include <doctest/doctest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <functional>

#include "config/config.h"
#include "cpu/isa.h"
#include "exec/backend.h"
#include "quant/format.h"
#include "support/paged_batch.h"
#include "support/random.h"

using namespace imp;
using namespace imp::test;

namespace {

std::unique_ptr<Backend> make(const Settings& settings, int threads = 1, std::string isa = "",
                              std::string linear = "") {
  return make_cpu_backend(
      {.settings = &settings, .num_threads = threads, .force_isa = std::move(isa), .force_linear = std::move(linear)});
}

int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

ErrorCode code_of(const std::function<void()>& body, std::string_view part) {
  try {
    body();
  } catch (const Error& error) {
    CAPTURE(error.what());
    CHECK(std::string_view(error.what()).find(part) != std::string_view::npos);
    return error.code();
  }
  return ErrorCode::ok;
}

TensorInfo tensor(WeightFormat format, std::vector<int64_t> shape, const void* data, size_t bytes) {
  return {.name = "blk.0.test.weight",
          .format = format,
          .shape = std::move(shape),
          .data = {static_cast<const std::byte*>(data), bytes}};
}

/// Runs one op of each kind but linear on a small problem.
void run_ops(Backend& backend) {
  Random random(1);
  PagedBatch paged({{1, 20}, {1, 3}}, 1, 64, random);
  paged.fill(random, 1, 1);
  std::vector<float> x = random.normals(2 * 128), y(x.size()), k = random.normals(2 * 64), v = k;
  const std::vector<float> weight = random.normals(128), inv_freq(32, 0.5f);
  const int32_t ids[] = {1, 0};
  const TensorView rows = f32_view(x.data(), 2, 128), out = f32_view(y.data(), 2, 128);
  const WeightView table = {.data = weight.data(), .format = WeightFormat::f32, .rows = 2, .cols = 64};
  backend.embed({table, ids, 1.0f, f32_view(y.data(), 2, 64)});
  backend.rms_norm({rows, weight.data(), 1e-5f, out});
  backend.qk_rope_kv({.q = rows,
                      .k = f32_view(k.data(), 2, 64),
                      .v = f32_view(v.data(), 2, 64),
                      .head_dim = 64,
                      .q_norm = nullptr,
                      .k_norm = nullptr,
                      .norm_epsilon = 0,
                      .pairing = RopePairing::half_split,
                      .rotary_dim = 64,
                      .inv_freq = inv_freq.data(),
                      .rope_magnitude = 1,
                      .cache = paged.cache(),
                      .batch = paged.batch()});
  backend.attention({.q = rows,
                     .out = out,
                     .num_heads = 2,
                     .scale = 0.125f,
                     .softcap = 0,
                     .sliding_window = 0,
                     .cache = paged.cache(),
                     .batch = paged.batch()});
  backend.softcap({out, 30.0f});
  backend.softcap({out, 30.0f});
}

}  // namespace

TEST_CASE("launches are counted by kernel, and force_isa decides which run") {
  const Settings settings;
  for (const char* isa : {"reference", "avx2", "avx512"}) {
    if (cpu::detect_isa() < (isa == std::string("avx512") ? cpu::Isa::avx512
                             : isa == std::string("avx2") ? cpu::Isa::avx2
                                                          : cpu::Isa::reference)) {
      CHECK(code_of([&] { make(settings, 1, isa); }, isa) == ErrorCode::unsupported);
      continue;
    }
    const auto backend = make(settings, 2, isa);
    run_ops(*backend);
    const std::string suffix = cat("_", isa);
    const bool reference = isa == std::string("reference");
    std::map<std::string, int64_t> expected = {{"embed_rows", 1},
                                               {"rms_norm" + suffix, 1},
                                               {"qk_rope_kv" + suffix, 1},
                                               {(reference ? "attention" : "attention_split") + suffix, 1},
                                               {"softcap" + suffix, 2}};
    CHECK(backend->launches() == expected);
    CHECK(backend->profile().empty());
    CHECK(backend->device_name().find(", 2 threads") != std::string::npos);
  }
  CHECK(code_of([&] { make(settings, 1, "sse9"); }, "sse9") != ErrorCode::ok);
  CHECK(code_of([&] { make(settings, -1); }, "-1") == ErrorCode::invalid_argument);
  CHECK(make(settings, 0)->device_name().find("thread") != std::string::npos);
}

TEST_CASE("diagnostics.profile fills the figures of each op class") {
  Settings settings;
  settings.diagnostics.profile = true;
  const auto backend = make(settings);
  run_ops(*backend);
  const auto profile = backend->profile();
  CHECK(profile.size() == 5);
  CHECK(profile.at("softcap").calls == 2);
  CHECK(profile.at("softcap").bytes == 2 * 8 * 2 * 128);
  // 23 visible keys, k and v of 64 halves each; q and out of 2 * 128 floats.
  CHECK(profile.at("attention").bytes == 23 * 2 * 64 * 2 + 2 * 2 * 128 * 4);
  CHECK(profile.at("attention").flops == 4.0 * 23 * 2 * 64);
  for (const auto& [op, figures] : profile) CHECK(figures.seconds > 0);
}

TEST_CASE("memory is zero, counted by tag, and costs nothing until touched") {
  const Settings settings;
  const auto backend = make(settings);
  const int64_t before = resident_bytes();
  constexpr uint64_t kBytes = uint64_t{4} << 30;
  auto* pool = static_cast<std::byte*>(backend->allocate(kBytes, MemoryTag::kv_pool));
  auto* small = static_cast<float*>(backend->allocate(4000, MemoryTag::workspace));
  CHECK(pool[kBytes - 1] == std::byte{0});
  for (int i = 0; i < 1000; ++i) REQUIRE(small[i] == 0.0f);
  small[999] = 1;
  CHECK(resident_bytes() - before < (int64_t{64} << 20));
  CHECK(backend->memory_by_tag() ==
        std::map<MemoryTag, uint64_t>{{MemoryTag::kv_pool, kBytes}, {MemoryTag::workspace, 4000}});
  CHECK(backend->total_memory_bytes() >= backend->free_memory_bytes());
  CHECK(backend->free_memory_bytes() > 0);
}

TEST_CASE("weights stay in the file; a shape that does not fit is named") {
  const Settings settings;
  const auto backend = make(settings);
  std::vector<std::byte> data(4 * 34 * 2);
  const TensorInfo good = tensor(WeightFormat::q8_0, {4, 64}, data.data(), data.size());
  const WeightView view = backend->prepare_weight(good, LinearRole::qkv);
  CHECK(view.data == data.data());
  CHECK(view.rows == 4);
  CHECK(view.cols == 64);
  backend->prepare_weight(good, LinearRole::lm_head);  // tied: counted once
  CHECK(backend->memory_by_tag().at(MemoryTag::weights) == data.size());

  const auto refuse = [&](std::vector<int64_t> shape, size_t bytes, std::string_view part) {
    const TensorInfo bad = tensor(WeightFormat::q8_0, std::move(shape), data.data(), bytes);
    CHECK(code_of([&] { backend->prepare_weight(bad, LinearRole::o); }, part) == ErrorCode::invalid_model);
  };
  refuse({256}, data.size(), "two dimensions");
  refuse({4, 48}, data.size(), "48 columns");
  refuse({4, 64}, data.size() - 1, "271");
  refuse({5, 64}, data.size(), "[5, 64]");
}

TEST_CASE("vectors are fp32 whatever the file holds and however it is aligned") {
  const Settings settings;
  const auto backend = make(settings);
  const std::vector<float> values = {1.5f, -2.0f, 0.25f};
  CHECK(backend->prepare_vector(tensor(WeightFormat::f32, {3}, values.data(), 12)) == values.data());

  std::vector<std::byte> shifted(16);
  std::memcpy(shifted.data() + 1, values.data(), 12);
  const float* copied = backend->prepare_vector(tensor(WeightFormat::f32, {3}, shifted.data() + 1, 12));
  CHECK(std::vector<float>(copied, copied + 3) == values);

  std::vector<uint16_t> halves, brains;
  for (float value : values) halves.push_back(f32_to_f16(value)), brains.push_back(f32_to_bf16(value));
  const float* from_f16 = backend->prepare_vector(tensor(WeightFormat::f16, {3}, halves.data(), 6));
  const float* from_bf16 = backend->prepare_vector(tensor(WeightFormat::bf16, {3}, brains.data(), 6));
  CHECK(std::vector<float>(from_f16, from_f16 + 3) == values);
  CHECK(std::vector<float>(from_bf16, from_bf16 + 3) == values);

  CHECK(code_of([&] { backend->prepare_vector(tensor(WeightFormat::f32, {3}, values.data(), 8)); }, "[3]") ==
        ErrorCode::invalid_model);
  CHECK(code_of([&] { backend->prepare_vector(tensor(WeightFormat::q8_0, {32}, halves.data(), 34)); }, "Q8_0") ==
        ErrorCode::invalid_model);
}

TEST_CASE("copy_kv_block copies one block of both tensors and nothing else") {
  const Settings settings;
  const auto backend = make(settings);
  std::vector<uint16_t> k(3 * 2 * 16 * 8), v(k.size());
  for (size_t i = 0; i < k.size(); ++i) k[i] = static_cast<uint16_t>(i), v[i] = static_cast<uint16_t>(i + 5000);
  std::vector<uint16_t> expected_k = k, expected_v = v;
  std::copy_n(&k[2 * 256], 256, expected_k.data());
  std::copy_n(&v[2 * 256], 256, expected_v.data());
  backend->copy_kv_block({k.data(), v.data(), DType::f16, 2, 8, 16}, 2, 0);
  CHECK(k == expected_k);
  CHECK(v == expected_v);
}

TEST_CASE("explain names a chosen candidate and why the others are not") {
  const Settings settings;
  const auto backend = make(settings);
  const auto chosen = [](const std::vector<Verdict>& verdicts) {
    std::string names;
    for (const Verdict& verdict : verdicts)
      if (verdict.chosen) names += cat(verdict.name, " ");
    return names;
  };
  const LinearQuery query = {LinearRole::gate_up, WeightFormat::q4_k, 1, 1536, 576};
  const auto verdicts = backend->explain_linear(query);
  CHECK(verdicts.size() > 1);
  const std::string best = chosen(verdicts);
  CHECK(best != "");
  const std::string last(verdicts.back().name);
  CHECK(chosen(make(settings, 1, "", last)->explain_linear(query)) == last + " ");
  CHECK(chosen(backend->explain_attention({1, 1, 100, 9, 3, 64, 0})) != "");
}
