#include <doctest/doctest.h>

#include "attention/attention_decode.h"
#include "norm/elementwise.h"
#include "rope/qk_rope_kv.h"
#include "support/decode_problem.h"
#include "support/few.h"

using namespace imp;
using namespace imp::cuda;
using namespace imp::test;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
// Weights are rounded to f16 before they meet the values: each errs by up to 2^-11, independently, so a row of the
// output errs by about 2^-11 / sqrt(3) of its length. A key of which one element rounds the other way than the
// reference's moves its score by 2^-11 of one product. One key more or less of 600 changes a row by some 4 %.
constexpr double kTolerance = 4e-3;

struct Device : TestDevice {
  static constexpr int kCounters = 1024;
  static constexpr int64_t kPartialFloats = int64_t{6} << 20;
  DeviceArray<float> partial{std::vector<float>(kPartialFloats, kNan)};
  DeviceArray<int32_t> counters{std::vector<int32_t>(kCounters, 0)};
  int max_cluster = decode_max_cluster(0);

  AttentionScratch scratch() { return {partial.data(), kPartialFloats, counters.data(), kCounters}; }
  LaunchContext with_clusters() {
    LaunchContext with = context(true);
    with.max_cluster = max_cluster;
    return with;
  }
  DecodeProblem::Result fused(DecodeProblem& problem, const DecodePlan& plan) {
    REQUIRE(decode_partial_floats(plan, problem.shape().num_kv_heads, problem.shape().head_dim) <= kPartialFloats);
    return problem.on_device([&](const QkRopeKvArgs& rope, const AttentionArgs& args) {
      rope_attention_decode(rope, args, plan, scratch(), with_clusters());
    });
  }
  DecodeProblem::Result unfused(DecodeProblem& problem, const DecodePlan& plan) {
    return problem.on_device([&](const QkRopeKvArgs& rope, const AttentionArgs& args) {
      qk_rope_kv(rope, args.num_heads, with_clusters());
      attention_decode(args, plan, scratch(), with_clusters());
    });
  }
  /// With the plan that the backend would make for contexts of up to `planned`.
  DecodeProblem::Result planned(DecodeProblem& problem, int planned) {
    return problem.on_device([&](const QkRopeKvArgs& rope, AttentionArgs args) {
      args.batch.max_context_len = std::max(planned, args.batch.max_context_len);
      rope_attention_decode(rope, args, plan_decode(args, true, scratch(), with_clusters()), scratch(),
                            with_clusters());
    });
  }
  /// Every counter is zero again, or the next launch goes wrong.
  bool counters_are_zero() const { return counters.download() == std::vector<int32_t>(kCounters, 0); }
  /// Splits, blocks of a cluster and stages of all kinds that this device has.
  std::vector<DecodePlan> plans(int head_dim) const {
    std::vector<DecodePlan> plans = {{1, 1, 2, 1}, {7, 1, 1, 1}, {64, 1, 1, 1}, {30, 1, 1, 1, 8}};
    if (max_cluster >= 8) plans.insert(plans.end(), {{8, 8, 1, 1}, {4, 4, 1, 1, 8}, {2, 2, 1, 2}, {8, 8, 1, 1, 8}});
    for (DecodePlan& plan : plans) plan.warps = std::min(plan.warps, max_decode_warps(head_dim));
    return plans;
  }
};

constexpr int kHeadDims[] = {16, 32, 64, 80, 96, 128, 256};
constexpr DecodePlan kPlain = {3, 1, 2, 1};

}  // namespace

TEST_CASE("every head width and group: one launch equals the reference, and two launches bit for bit") {
  Random random(1);
  Device device;
  for (int head_dim : kHeadDims) {
    // 96: the only width whose kernel for few rows nothing else launches.
    for (int group : head_dim == 96 ? few({1, 3, 4, 16}, {3, 16}) : few({1, 3, 4, 16}, {16})) {
      DecodeShape shape = {group, 2, head_dim};
      shape.norms = group % 2 == 0;
      shape.pairing = group == 4 ? RopePairing::interleaved : RopePairing::half_split;
      const DecodeProblem::Sequences pieces = {{1, 1}, {1, 600}, {1, 63}, {1, 64}, {1, 65}, {1, 257}};
      DecodeProblem problem(shape, few(pieces, {{1, 1}, {1, 150}, {1, 65}}), random);
      const auto expected = problem.reference();
      for (const DecodePlan& plan : device.plans(problem.shape().head_dim)) {
        CAPTURE(head_dim);
        CAPTURE(group);
        CAPTURE(plan.splits);
        CAPTURE(plan.cluster);
        const auto found = device.fused(problem, plan);
        CHECK(problem.worst(expected.out, found.out, kTolerance) == "");
        const auto two = device.unfused(problem, plan);
        CHECK(same_bits(found.out, two.out));
        CHECK(found.k == two.k);
        CHECK(found.v == two.v);
      }
    }
  }
  CHECK(device.counters_are_zero());
}

TEST_CASE("only the new tokens' slots of the cache change, to what the reference puts there") {
  Random random(2);
  Device device;
  for (int rotary_dim : {128, 64, 32}) {
    DecodeShape shape = {2, 3, 128};
    shape.rotary_dim = rotary_dim;
    DecodeProblem problem(shape, {{3, 50}, {1, 17}, {8, 8}, {5, few(1000, 100)}, {2, 33}}, random);
    const auto expected = problem.reference();
    for (const DecodePlan& plan : device.plans(problem.shape().head_dim)) {
      const auto found = device.fused(problem, plan);
      CAPTURE(rotary_dim);
      CAPTURE(plan.splits);
      CAPTURE(plan.cluster);
      CHECK(found.v == expected.v);
      size_t far = 0;  // a f16 may round the other way
      for (size_t i = 0; i < expected.k.size(); ++i) far += std::abs(int{found.k[i]} - int{expected.k[i]}) > 1;
      CHECK(far == 0);
      CHECK(problem.worst(expected.out, found.out, kTolerance) == "");
    }
  }
}

TEST_CASE("several tokens a sequence, as speculation and short prompts have them") {
  Random random(3);
  Device device;
  for (int head_dim : few({64, 80, 128, 256}, {80, 128})) {
    for (const auto& [group, tokens] : few({std::pair{1, 16}, {4, 4}, {3, 5}, {8, 2}}, {{1, 16}, {3, 5}})) {
      DecodeProblem problem({group, 2, head_dim}, {{tokens, tokens}, {tokens, few(300, 100)}, {1, 129}, {tokens, 49}},
                            random);
      const auto expected = problem.reference();
      for (const DecodePlan& plan : device.plans(problem.shape().head_dim)) {
        CAPTURE(head_dim);
        CAPTURE(group);
        CAPTURE(plan.splits);
        CAPTURE(plan.cluster);
        const auto found = device.fused(problem, plan);
        CHECK(problem.worst(expected.out, found.out, kTolerance) == "");
        if (problem.tokens() >= 32) continue;  // then another kernel rotates, with other roundings
        CHECK(same_bits(found.out, device.unfused(problem, plan).out));
      }
    }
  }
  CHECK(device.counters_are_zero());
}

TEST_CASE("windows, softcap, sharp scores, very different lengths") {
  Random random(4);
  Device device;
  for (const DecodeShape& shape :
       {DecodeShape{4, 1, 256, 512}, DecodeShape{4, 1, 256, 17}, DecodeShape{2, 2, 128, 1},
        DecodeShape{8, 1, 64, 0, 30.0f}, DecodeShape{4, 2, 128, 100, 5.0f, 1, 2}, DecodeShape{1, 2, 80, 0, 0, 1, 3}}) {
    DecodeProblem problem(shape, {{1, few(5000, 600)}, {1, 40}, {1, 513}, {1, 1}}, random);
    const auto expected = problem.reference();
    for (const DecodePlan& plan : device.plans(problem.shape().head_dim)) {
      CAPTURE(shape.head_dim);
      CAPTURE(shape.window);
      CAPTURE(plan.splits);
      CAPTURE(plan.cluster);
      CHECK(problem.worst(expected.out, device.fused(problem, plan).out, kTolerance) == "");
    }
  }
}

TEST_CASE("contexts of 1 to 20000 with the plans the backend makes, for the context itself and for longer ones") {
  Random random(5);
  Device device;
  for (const DecodeShape& shape : {DecodeShape{4, 8, 128}, DecodeShape{2, 8, 128}, DecodeShape{3, 3, 64},
                                   DecodeShape{4, 1, 256}, DecodeShape{4, 8, 64}}) {
    for (int context : few({1, 2, 16, 17, 31, 32, 100, 128, 255, 500, 1023, 4097, 20000}, {1, 17, 255, 700})) {
      if (context > 5000 && (shape.head_dim != 128 || shape.group != 4)) continue;
      DecodeProblem problem(shape, {{1, context}}, random);
      const auto expected = problem.reference();
      for (int planned : {context, 2 * context, 32768}) {
        CAPTURE(shape.head_dim);
        CAPTURE(context);
        CAPTURE(planned);
        CHECK(problem.worst(expected.out, device.planned(problem, planned).out, kTolerance) == "");
      }
    }
  }
  CHECK(device.counters_are_zero());
}

TEST_CASE("any number of stages gives the same bits") {
  Random random(6);
  Device device;
  for (int head_dim : kHeadDims) {
    DecodeProblem problem({4, 2, head_dim}, {{1, few(700, 200)}, {1, 3}, {1, 130}, {2, 90}}, random);
    const auto one = device.fused(problem, {6, 1, 1, 1});
    for (int stages : {2, 3, 4}) {
      if (decode_shared(head_dim, 4, stages, 8, 2, 1).total + 1024 > device.max_shared_bytes) continue;
      CAPTURE(head_dim);
      CAPTURE(stages);
      CHECK(same_bits(device.fused(problem, {6, 1, stages, 1}).out, one.out));
    }
  }
}

TEST_CASE("one long sequence among many short ones: blocks go where the keys are") {
  Random random(13);
  Device device;
  for (const DecodeShape& shape : {DecodeShape{4, 2, 128}, DecodeShape{2, 1, 64, 300}}) {
    for (int others : few({1, 16, 31, 50}, {16})) {
      DecodeProblem::Sequences sequences;
      for (int i = 0; i < others; ++i) sequences.push_back({i % 5 == 3 ? 2 : 1, 20 + i * 37 % 100});
      sequences.insert(sequences.begin() + others / 2, {1, few(2500, 300)});
      if (others > 1) sequences.push_back({1, 900});
      DecodeProblem problem(shape, sequences, random);
      const auto expected = problem.reference();
      for (const DecodePlan& plan : {DecodePlan{16, 1, 1, 1, 8}, {33, 1, 2, 1}, {128, 1, 1, 1}, {2, 1, 2, 1}}) {
        CAPTURE(shape.head_dim);
        CAPTURE(others);
        CAPTURE(plan.splits);
        const auto found = device.fused(problem, plan);
        CHECK(problem.worst(expected.out, found.out, kTolerance) == "");
        CHECK(same_bits(device.fused(problem, plan).out, found.out));
      }
      CHECK(problem.worst(expected.out, device.planned(problem, 8192).out, kTolerance) == "");
    }
  }
  CHECK(device.counters_are_zero());
}

TEST_CASE("repeats bit for bit") {
  Random random(7);
  Device device;
  DecodeProblem problem({4, 8, 128}, {{1, few(3000, 300)}, {1, few(2000, 200)}, {1, 17}, {1, few(1024, 64)}}, random);
  for (const DecodePlan& plan : device.plans(problem.shape().head_dim)) {
    const auto first = device.fused(problem, plan);
    for (int i = 0; i < few(10, 2); ++i) CHECK(same_bits(device.fused(problem, plan).out, first.out));
  }
}

TEST_CASE("a graph recorded for a longer context serves every context that grows into it") {
  Random random(9);
  Device device;
  DecodeProblem problem({4, 8, 128}, {{1, 400}}, random);
  for (int planned : {512, 8192}) {
    problem.on_device([&](const QkRopeKvArgs& rope, AttentionArgs args) {
      LaunchContext context = device.with_clusters();
      check(cudaStreamCreate(&context.stream), "cudaStreamCreate");
      const auto plan_for = [&](int length) {
        args.batch.max_context_len = length;
        return plan_decode(args, true, device.scratch(), context);
      };
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t exec = nullptr;
      const DecodePlan recorded = plan_for(planned);
      check(cudaStreamBeginCapture(context.stream, cudaStreamCaptureModeRelaxed), "capture");
      rope_attention_decode(rope, args, recorded, device.scratch(), context);
      check(cudaStreamEndCapture(context.stream, &graph), "capture");
      check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
      std::vector<float> replayed(static_cast<size_t>(args.q.cols)), direct = replayed;
      const auto download = [&](std::vector<float>& to) {
        check(cudaStreamSynchronize(context.stream), "a kernel");
        check(cudaMemcpy(to.data(), args.out.data, to.size() * sizeof(float), cudaMemcpyDeviceToHost), "cudaMemcpy");
      };
      for (int length : {1, 2, 15, 16, 17, 32, 33, 127, 129, 255, 256, 257, 399, 400}) {
        check(cudaMemcpy(const_cast<int32_t*>(args.batch.context_len), &length, sizeof length, cudaMemcpyHostToDevice),
              "cudaMemcpy");
        check(cudaStreamSynchronize(nullptr), "cudaMemcpy");  // small copies from pageable memory may end later
        check(cudaGraphLaunch(exec, context.stream), "cudaGraphLaunch");
        download(replayed);
        rope_attention_decode(rope, args, plan_for(length), device.scratch(), context);
        download(direct);
        CAPTURE(length);
        CHECK(problem.worst(direct, replayed, 5e-4) == "");
      }
      check(cudaGraphExecDestroy(exec), "graph");
      check(cudaGraphDestroy(graph), "graph");
      check(cudaStreamDestroy(context.stream), "stream");
    });
  }
}

TEST_CASE("overlap with the kernel that makes q, k and v changes no bit") {
  Random random(10);
  Device device;
  for (const DecodeShape& shape : {DecodeShape{4, 8, 128}, DecodeShape{2, 3, 64}}) {
    DecodeProblem problem(shape, {{1, few(900, 90)}, {1, 30}, {1, few(2500, 250)}}, random);
    const auto chain = [&](bool overlap) {
      std::vector<std::vector<float>> outs;
      problem.on_device([&](const QkRopeKvArgs& rope, const AttentionArgs& args) {
        const int64_t cols = args.q.row_stride, rows = args.q.rows;
        LaunchContext context = device.with_clusters();
        context.pdl = overlap;
        const DeviceArray<float> weight(Random(11).normals(cols)), inputs(Random(12).normals(12 * rows * cols));
        const DeviceArray<float> kept(std::vector<float>(static_cast<size_t>(12 * rows * args.q.cols), kNan));
        const DecodePlan plan = plan_decode(args, true, device.scratch(), context);
        for (int i = 0; i < 12; ++i) {
          const TensorView in = f32_view(inputs.data() + i * rows * cols, rows, cols);
          AttentionArgs step = args;
          step.out = f32_view(kept.data() + i * rows * args.q.cols, rows, args.q.cols);
          rms_norm(
              {.x = in, .weight = weight.data(), .epsilon = 1e-6f, .y = f32_view(args.q.row<float>(0), rows, cols)},
              context);
          rope_attention_decode(rope, step, plan, device.scratch(), context);
        }
        outs.push_back(kept.download());
      });
      return outs[0];
    };
    const std::vector<float> expected = chain(false);
    for (int i = 0; i < few(5, 1); ++i) CHECK(same_bits(chain(true), expected));
  }
}

TEST_CASE("a bf16 output is the fp32 one, rounded") {
  Random random(8);
  Device device;
  DecodeProblem problem({4, 2, 128}, {{1, 300}, {1, 77}}, random);
  const auto expected = device.fused(problem, kPlain);
  std::vector<uint16_t> bits;
  problem.on_device([&](const QkRopeKvArgs& rope, AttentionArgs args) {
    const DeviceArray<uint16_t> out(std::vector<uint16_t>(expected.out.size(), 0xffff));
    args.out.data = out.data(), args.out.dtype = DType::bf16;
    rope_attention_decode(rope, args, kPlain, device.scratch(), device.context(true));
    bits = out.download();
  });
  for (size_t i = 0; i < bits.size(); ++i) {
    const uint32_t word = uint32_t{bits[i]} << 16;
    float found;
    std::memcpy(&found, &word, 4);
    CHECK(std::abs(found - expected.out[i]) <= std::abs(expected.out[i]) * 0x1p-8);
  }
}

TEST_CASE("a plan: clusters where the device has them, never more blocks than keys are worth") {
  Device device;
  LaunchContext context = device.context();
  context.num_sms = 132, context.max_shared_bytes = 227 * 1024, context.max_cluster = 8;
  AttentionArgs args = {};
  args.num_heads = 32;
  args.cache = {nullptr, nullptr, DType::f16, 8, 128, 16};
  args.batch.num_sequences = 1, args.batch.max_query_len = 1;
  for (int length : {1, 16, 128, 1024, 16384, 131072}) {
    args.batch.max_context_len = length;
    for (int max_cluster : {1, 8}) {
      context.max_cluster = max_cluster;
      const DecodePlan plan = plan_decode(args, true, device.scratch(), context);
      CAPTURE(length);
      CAPTURE(max_cluster);
      CHECK(plan.cluster <= max_cluster);
      CHECK(plan.splits % plan.cluster == 0);
      CHECK(plan.splits >= 1);
      CHECK((length > 16 || plan.splits == 1));
      CHECK((length < 16384 || plan.splits * 8 >= 64));
      CHECK(decode_partial_floats(plan, 8, 128) <= max_decode_partial_floats(context));
    }
  }
  CHECK(plan_decode(args, false, device.scratch(), context).stages == 1);
  CHECK(plan_decode(args, true, device.scratch(), context).stages > 1);
  // One sequence leaves room for a GEMV on each side, which take about half of a multiprocessor; with 25 more the card
  // is full of attention.
  for (int length : {64, 256, 1024, 4096, 16384, 131072}) {
    args.batch.max_context_len = length;
    const DecodePlan plan = plan_decode(args, true, device.scratch(), context);
    CAPTURE(length);
    CHECK((plan.stages == 1 || length > 1024));
    CHECK((plan.warps * plan.stages == 12 || length < 16384));
    CHECK(decode_shared(128, plan.warps, plan.stages, 8, 1, plan.cluster).total <= 108 * 1024);
  }
  args.batch.num_sequences = 26;
  CHECK(plan_decode(args, true, device.scratch(), context).warps == 4);
  CHECK(plan_decode(args, true, device.scratch(), context).splits == 33);
  args.batch.max_context_len = 512;
  CHECK(plan_decode(args, true, device.scratch(), context).splits == 1);
}
