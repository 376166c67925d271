#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <thread>

#include "core/half.h"
#include "core/text.h"
#include "linear/gemm_stream.h"
#include "reference/reference.h"
#include "support/cuda_device.h"
#include "support/few.h"
#include "support/prefill_call.h"

using namespace imp;
using namespace imp::cuda;
using namespace imp::test;

namespace {

struct Case {
  int tokens = 0, rows = 0, cols = 0;
  StreamPlan plan = {};  // of 0 splits: the kernel's own
  bool accumulate = false, gated = false, bf16_out = false, pdl = false;
  Activation activation = Activation::silu;
  int repeats = 1;
};

/// Scratch that a launch must leave as the next one needs it.
struct Scratch {
  TestDevice device;
  DeviceArray<float> partial{std::vector<float>(4 << 20, kNan)};
  DeviceArray<int32_t> counters{std::vector<int32_t>(64, 0)};
};

std::vector<float> rounded(const std::vector<float>& values, std::vector<uint16_t>& bits) {
  std::vector<float> out;
  for (float value : values) {
    bits.push_back(f32_to_bf16(value));
    out.push_back(bf16_to_f32(bits.back()));
  }
  return out;
}

/// "" or the first element that fp32 sums do not explain.
std::string run_and_check(Scratch& scratch, const Case& c, Random& random) {
  const int64_t out_rows = c.gated ? c.rows / 2 : c.rows, stride = out_rows + 2;
  std::vector<uint16_t> x_bits, w_bits;
  const std::vector<float> x = rounded(random.outlier_heavy(c.tokens, c.cols), x_bits);
  const std::vector<float> w = rounded(random.normals(int64_t{c.rows} * c.cols, 0.05f), w_bits);
  const DeviceArray<uint16_t> device_x(x_bits), device_w(w_bits);
  const std::vector<float> before =
      c.accumulate ? random.normals(c.tokens * stride) : std::vector<float>(c.tokens * stride, kNan);
  const DeviceArray<float> wide(before);
  const DeviceArray<uint16_t> narrow(std::vector<uint16_t>(c.tokens * stride, 0x7fc0));
  const StreamGemmArgs args = {.x = device_x.data(),
                               .tokens = c.tokens,
                               .w = device_w.data(),
                               .rows = c.rows,
                               .cols = c.cols,
                               .y = c.bf16_out ? static_cast<void*>(narrow.data()) : wide.data(),
                               .y_stride = stride,
                               .accumulate = c.accumulate,
                               .gated = c.gated,
                               .bf16_out = c.bf16_out,
                               .activation = c.activation,
                               .partial = scratch.partial.data(),
                               .partial_bytes = 16 << 20,
                               .counters = scratch.counters.data(),
                               .num_counters = 64};
  for (int i = 0; i < c.repeats; ++i)
    gemm_stream(args, scratch.device.context(c.pdl), c.plan.splits > 0 ? &c.plan : nullptr);

  std::vector<double> sum(int64_t{c.tokens} * c.rows), size(sum.size());
  constexpr int kThreads = 8;
  std::vector<std::thread> threads;
  for (int part = 0; part < kThreads; ++part)
    threads.emplace_back([&, part] {
      for (int64_t r = part; r < c.rows; r += kThreads)
        for (int64_t t = 0; t < c.tokens; ++t) {
          double total = 0, absolute = 0;
          for (int64_t k = 0; k < c.cols; ++k) {
            const double p = double(x[t * c.cols + k]) * w[r * c.cols + k];
            total += p, absolute += std::fabs(p);
          }
          sum[t * c.rows + r] = total, size[t * c.rows + r] = absolute;
        }
    });
  for (std::thread& thread : threads) thread.join();

  std::vector<float> y = wide.download();
  if (c.bf16_out) {
    const std::vector<uint16_t> bits = narrow.download();
    for (size_t at = 0; at < bits.size(); ++at) y[at] = bf16_to_f32(bits[at]);
  }
  for (int64_t t = 0; t < c.tokens; ++t) {
    for (int64_t r = 0; r < stride; ++r) {
      const float found = y[t * stride + r], kept = before[t * stride + r];
      if (r >= out_rows) {
        if (std::memcmp(&found, &kept, 4) != 0 && !(std::isnan(found) && std::isnan(kept)))
          return cat("token ", t, " row ", r, " is not of this product");
        continue;
      }
      double expected = sum[t * c.rows + r], allowed = 1e-5 * size[t * c.rows + r] + 1e-7;
      if (c.gated) {
        const double a = reference::activate(c.activation, expected), up = sum[t * c.rows + out_rows + r];
        const double up_allowed = 1e-5 * size[t * c.rows + out_rows + r] + 1e-7;
        allowed = 1.13 * allowed * (std::fabs(up) + up_allowed) + std::fabs(a) * up_allowed + 4e-6 * std::fabs(a * up);
        expected = a * up;
      }
      if (c.accumulate) expected = expected * c.repeats + kept, allowed = (allowed + 1e-6) * c.repeats;
      if (c.bf16_out) allowed += 0x1.01p-8 * std::fabs(expected);
      if (!(std::fabs(found - expected) <= allowed + 1e-6 * std::fabs(expected)))
        return cat("token ", t, " row ", r, ": expected ", expected, ", found ", found, ", allowed ", allowed);
    }
  }
  for (int32_t counter : scratch.counters.download())
    if (counter != 0) return "a counter was left set";
  return "";
}

}  // namespace

TEST_CASE("gemm_stream: every tile and number of parts, odd sizes") {
  if (TestDevice().capability != 90) return;
  Random random(1);
  Scratch scratch;
  for (int groups : {2, 3})
    for (int splits : {1, 4})
      for (int tokens : few({1, 33, 64, 65, 127, 128}, {33, 128}))
        for (const auto& [rows, cols] :
             few<std::pair<int, int>>({{48, 520}, {656, 1000}, {400, 4096}}, {{656, 1000}})) {
          CAPTURE(groups);
          CAPTURE(splits);
          CAPTURE(tokens);
          CAPTURE(rows);
          CHECK(run_and_check(
                    scratch,
                    {.tokens = tokens, .rows = rows, .cols = cols, .plan = {.groups = groups, .splits = splits}},
                    random) == "");
        }
}

TEST_CASE("gemm_stream: residual, gated, bf16 out, again and again on one scratch") {
  if (TestDevice().capability != 90) return;
  Random random(2);
  Scratch scratch;
  for (int tokens : few({50, 128}, {50}))
    for (const Case& options :
         {Case{.accumulate = true, .repeats = 3}, Case{.bf16_out = true}, Case{.gated = true, .repeats = 2},
          Case{.gated = true, .bf16_out = true, .pdl = true}, Case{.gated = true, .activation = Activation::gelu_tanh},
          Case{.accumulate = true, .pdl = true, .repeats = 4}})
      for (const StreamPlan& plan : {StreamPlan{}, StreamPlan{2, 4, 0}, StreamPlan{3, 1, 0}, StreamPlan{3, 4, 0}}) {
        Case c = options;
        c.tokens = tokens, c.rows = 832, c.cols = 1096, c.plan = plan;
        CAPTURE(tokens);
        CAPTURE(plan.groups);
        CAPTURE(plan.splits);
        CAPTURE(c.gated);
        CAPTURE(c.accumulate);
        CHECK(run_and_check(scratch, c, random) == "");
      }
}

TEST_CASE("gemm_stream: the same result every time") {
  if (TestDevice().capability != 90) return;
  Random random(3);
  Scratch scratch;
  const int tokens = 100, rows = 4096, cols = few(4096, 1024);
  std::vector<uint16_t> x, w;
  rounded(random.outlier_heavy(tokens, cols), x), rounded(random.normals(int64_t{rows} * cols), w);
  const DeviceArray<uint16_t> device_x(x), device_w(w);
  std::vector<float> first;
  for (int i = 0; i < 20; ++i) {
    const DeviceArray<float> y(std::vector<float>(int64_t{tokens} * rows, 0));
    gemm_stream({.x = device_x.data(),
                 .tokens = tokens,
                 .w = device_w.data(),
                 .rows = rows,
                 .cols = cols,
                 .y = y.data(),
                 .y_stride = rows,
                 .accumulate = true,
                 .gated = false,
                 .bf16_out = false,
                 .activation = {},
                 .partial = scratch.partial.data(),
                 .partial_bytes = 16 << 20,
                 .counters = scratch.counters.data(),
                 .num_counters = 64},
                scratch.device.context(true));
    const std::vector<float> found = y.download();
    if (i == 0) first = found;
    REQUIRE(found == first);
  }
}

TEST_CASE("gemm_stream: linears with copies are those with the weights expanded for the step") {
  if (TestDevice().capability != 90) return;
  Random random(4);
  LinearWorkspace workspace;
  const int64_t k = 512;
  const auto& with = workspace.device.context();
  std::vector<std::unique_ptr<DeviceMemory>> memory;
  const auto allocate = [&](uint64_t bytes) {
    // With a gap: copies that happen to follow each other would be one product.
    return memory.emplace_back(std::make_unique<DeviceMemory>(bytes + 512))->data();
  };
  const Operand q(WeightFormat::q4_k, 256, k, random, with), key(WeightFormat::q4_k, 72, k, random, with),
      v(WeightFormat::q6_k, 184, k, random, with), gate(WeightFormat::q8_0, 192, k, random, with),
      up(WeightFormat::q8_0, 192, k, random, with);
  // Side by side as one product; and apart, where two of them have rows that only the library takes.
  Bf16Weights joined, apart;
  const WeightView views[] = {q.device.view(), key.device.view(), v.device.view()};
  const WeightView gated_views[] = {gate.device.view(), up.device.view()};
  joined.add(views, allocate, with), joined.add(gated_views, allocate, with);
  for (const WeightView& view : views) apart.add({&view, 1}, allocate, with);
  for (const WeightView& view : gated_views) apart.add({&view, 1}, allocate, with);
  for (int64_t m : {37, 128}) {
    const DeviceArray<float> x(bf16_values(random, m, k).first);
    for (const Bf16Weights* copies : {&joined, &apart}) {
      CAPTURE(m);
      for (bool accumulate : {false, true}) {
        CAPTURE(accumulate);
        PrefillCall call{
            .workspace = workspace, .weights = {&q, &key, &v}, .m = m, .bias = true, .accumulate = accumulate};
        const std::vector<float> expected = call.run(x.data(), DType::f32, DType::f32);
        const int64_t before = workspace.device.launches["gemm_stream"];
        call.bf16_copies = copies, call.candidate = "gemm_stream", call.num_sms = 4;
        CHECK(distance(call.run(x.data(), DType::f32, DType::f32), expected) < 1e-5);
        CHECK(workspace.device.launches["gemm_stream"] == before + 1);
      }
      for (bool bias : {false, true})
        for (DType y : {DType::f32, DType::bf16}) {
          CAPTURE(bias);
          PrefillCall call{.workspace = workspace, .weights = {&gate, &up}, .m = m, .bias = bias, .gated = true};
          const std::vector<float> expected = call.run(x.data(), DType::f32, y);
          const int64_t activations = workspace.device.launches["gated_activation"];
          call.bf16_copies = copies, call.candidate = "gemm_stream", call.num_sms = 2;
          // With bf16 results the library's gate and up are bf16, too.
          CHECK(distance(call.run(x.data(), DType::f32, y), expected) < (y == DType::f32 ? 1e-5 : 1e-2));
          // Where gate and up are one product and nothing is added, it activates itself.
          CHECK(workspace.device.launches["gated_activation"] - activations == (bias || copies == &apart ? 1 : 0));
        }
    }
  }
}

TEST_CASE("gemm_stream: how products are cut up") {
  const auto plan = [](int64_t rows, int64_t cols) { return plan_stream_gemm(rows, cols, 132); };
  CHECK(plan(24576, 4096).groups == 3);  // gate and up of an 8B model: 128 tiles of 192 rows
  CHECK(plan(24576, 4096).splits == 1);
  CHECK(plan(4096, 12288).splits == 4);  // down: 32 tiles in 4 parts
  CHECK(plan(4096, 12288).busy > 0.9);
  CHECK(plan(40, 4096).splits == 0);    // no multiple of 16
  CHECK(plan(4096, 4100).splits == 0);  // rows of the weight are not aligned
  CHECK(plan(151936, 4096).splits == 1);
  CHECK(plan(64, 512).busy < 0.1);
}
