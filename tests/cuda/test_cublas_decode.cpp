#include <doctest/doctest.h>

#include "attention/attention_decode.h"
#include "attention/cublas_decode.h"
#include "attention/head_widths.h"
#include "core/error.h"
#include "rope/qk_rope_kv.h"
#include "support/decode_problem.h"
#include "support/few.h"

// attention.force_cublas_decode: against the reference, and against the paged kernel that it is there to check.

using namespace imp;
using namespace imp::cuda;
using namespace imp::test;

namespace {

constexpr double kTolerance = 4e-3;  // of a row's length against the reference: see test_attention_decode.cpp
constexpr double kPaged = 2e-3;      // against the paged kernel, which rounds the same inputs to f16

struct Device : TestDevice {
  static constexpr size_t kWorkspace = 32 << 20;
  static constexpr int64_t kPartialFloats = int64_t{6} << 20;
  DeviceArray<uint8_t> workspace{std::vector<uint8_t>(kWorkspace)};
  DeviceArray<float> partial{std::vector<float>(kPartialFloats)};
  DeviceArray<int32_t> counters{std::vector<int32_t>(1024, 0)};
  CublasLt products;

  Device() { products.open(workspace.data(), kWorkspace, {}); }

  DecodeProblem::Result gathered(DecodeProblem& problem) {
    return problem.on_device([&](const QkRopeKvArgs& rope, const AttentionArgs& args) {
      // Twice NaN an element, whatever its type: what is read must have been written.
      const int64_t bytes =
          cublas_decode_bytes(args.num_heads, args.cache.num_kv_heads, args.cache.head_dim, args.batch.max_context_len);
      const DeviceArray<uint16_t> memory(std::vector<uint16_t>(static_cast<size_t>(bytes / 2), 0x7fff));
      qk_rope_kv(rope, args.num_heads, context());
      cublas_decode(args, {memory.data(), bytes}, products, context());
    });
  }
  DecodeProblem::Result paged(DecodeProblem& problem) {
    return problem.on_device([&](const QkRopeKvArgs& rope, const AttentionArgs& args) {
      const AttentionScratch scratch = {partial.data(), kPartialFloats, counters.data(), 1024};
      rope_attention_decode(rope, args, plan_decode(args, true, scratch, context(true)), scratch, context(true));
    });
  }
};

}  // namespace

TEST_CASE("gathered K and V: contexts from 1 to 40000, alone and ragged") {
  Random random(1);
  Device device;
  for (const DecodeShape& shape : {DecodeShape{4, 2, 128}, DecodeShape{3, 3, 64}}) {
    for (int length : few({1, 16, 17, 300, 5000, 20000, 40000}, {1, 17, 300})) {
      CAPTURE(shape.head_dim);
      CAPTURE(length);
      DecodeProblem problem(shape, {{1, length}}, random);
      const auto expected = problem.reference(), found = device.gathered(problem);
      CHECK(problem.worst(expected.out, found.out, kTolerance) == "");
      CHECK(problem.worst(device.paged(problem).out, found.out, kPaged) == "");
    }
  }
  DecodeProblem ragged({4, 2, 128}, {{1, 3000}, {1, 1}, {1, 64}, {1, 65}, {1, 700}}, random);
  CHECK(ragged.worst(ragged.reference().out, device.gathered(ragged).out, kTolerance) == "");
}

TEST_CASE("gathered K and V: every head width, windows, softcap, sharp scores") {
  Random random(2);
  Device device;
  for (const HeadWidth& width : head_widths()) {
    const int head_dim = width.head_dim;
    for (int group : few({1, 3, 8}, {3})) {
      CAPTURE(head_dim);
      CAPTURE(group);
      DecodeProblem problem({group, 2, head_dim}, {{1, 200}, {1, 33}}, random);
      CHECK(problem.worst(problem.reference().out, device.gathered(problem).out, kTolerance) == "");
    }
  }
  for (const DecodeShape& shape :
       {DecodeShape{4, 1, 256, 512}, DecodeShape{2, 2, 128, 1}, DecodeShape{8, 1, 64, 0, 30.0f},
        DecodeShape{4, 2, 128, 100, 5.0f, 1, 2}, DecodeShape{1, 2, 80, 0, 0, 1, 3}}) {
    CAPTURE(shape.head_dim);
    CAPTURE(shape.window);
    DecodeProblem problem(shape, {{1, 5000}, {1, 40}, {1, 1}}, random);
    const auto found = device.gathered(problem);
    CHECK(problem.worst(problem.reference().out, found.out, kTolerance) == "");
    CHECK(problem.worst(device.paged(problem).out, found.out, kPaged) == "");
  }
}

TEST_CASE("gathered K and V: less memory than the context needs is refused, and a bf16 output is rounded") {
  Random random(3);
  Device device;
  DecodeProblem problem({4, 2, 128}, {{1, 300}, {1, 77}}, random);
  const auto expected = device.gathered(problem);
  problem.on_device([&](const QkRopeKvArgs& rope, AttentionArgs args) {
    const int64_t bytes = cublas_decode_bytes(8, 2, 128, 300);
    const DeviceArray<uint8_t> memory(std::vector<uint8_t>(static_cast<size_t>(bytes)));
    CHECK_THROWS_AS(cublas_decode(args, {memory.data(), bytes - 1}, device.products, device.context()), Error);
    const DeviceArray<uint16_t> out(std::vector<uint16_t>(expected.out.size(), 0xffff));
    args.out.data = out.data(), args.out.dtype = DType::bf16;
    qk_rope_kv(rope, args.num_heads, device.context());
    cublas_decode(args, {memory.data(), bytes}, device.products, device.context());
    const std::vector<uint16_t> bits = out.download();
    for (size_t i = 0; i < bits.size(); ++i) {
      const uint32_t word = uint32_t{bits[i]} << 16;
      float found;
      std::memcpy(&found, &word, 4);
      CHECK(std::abs(found - expected.out[i]) <= std::abs(expected.out[i]) * 0x1p-8);
    }
  });
}
