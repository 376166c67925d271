#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "attention/attention.h"
#include "attention/head_widths.h"
#include "reference/reference.h"
#include "support/compare.h"
#include "support/cuda_device.h"
#include "support/few.h"
#include "support/paged_batch.h"

using namespace imp;
using namespace imp::cuda;
using namespace imp::test;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
// Weights are rounded to f16 before they meet the values: each errs by up to 2^-11, independently, so a row of the
// output errs by about 2^-11 / sqrt(3) of its length. One key more or less of 600 changes it by some 4 %.
constexpr double kTolerance = 1e-3;
constexpr double kBf16Tolerance = 4e-3;  // the output itself is rounded to 8 bits

struct Shape {
  int group, num_kv_heads, head_dim;
  int window = 0;
  float softcap = 0;
  float q_sigma = 1, k_sigma = 1;
};

/// A batch on host and device.
class Problem {
 public:
  using Sequences = std::vector<PagedBatch::Sequence>;
  Problem(const Shape& shape, Sequences sequences, Random& random)
      : shape_(shape), paged_(std::move(sequences), shape.num_kv_heads, shape.head_dim, random) {
    paged_.fill(random, shape.k_sigma, 2.0f);
    width_ = int64_t{shape.group} * shape.num_kv_heads * shape.head_dim;
    q_ = random.normals(paged_.tokens() * width_, shape.q_sigma);
  }

  /// The oracle sees the queries as the tensor cores do: scaled, then rounded to f16.
  std::vector<float> expected() {
    std::vector<float> q = q_, out(q_.size(), kNan);
    for (float& x : q) x = f16_to_f32(f32_to_f16(x * scale()));
    AttentionArgs args = common();
    args.scale = 1;
    args.q = f32_view(q.data(), paged_.tokens(), width_);
    args.out = f32_view(out.data(), paged_.tokens(), width_);
    args.cache = paged_.cache();
    args.batch = paged_.batch();
    reference::attention(args);
    return out;
  }

  template <class Op>
  std::vector<float> on_device(const Op& op, DType dtype = DType::f32) {
    const SequenceBatch host = paged_.batch();
    const auto sequences = static_cast<size_t>(host.num_sequences);
    const DeviceArray<float> q(q_), out(std::vector<float>(q_.size(), kNan));
    const DeviceArray<uint16_t> k(paged_.k()), v(paged_.v());
    const DeviceArray<int32_t> starts({host.query_start, host.query_start + sequences + 1});
    const DeviceArray<int32_t> lengths({host.context_len, host.context_len + sequences});
    const DeviceArray<int32_t> tables(
        {host.block_tables, host.block_tables + sequences * static_cast<size_t>(host.block_table_stride)});
    const DeviceArray<int32_t> positions({host.positions, host.positions + paged_.tokens()});
    AttentionArgs args = common();
    args.scale = scale();
    args.q = f32_view(q.data(), paged_.tokens(), width_);
    args.out = f32_view(out.data(), paged_.tokens(), width_);
    args.cache = {k.data(), v.data(), DType::f16, shape_.num_kv_heads, shape_.head_dim, PagedBatch::kBlockSize};
    args.batch = host;
    args.batch.query_start = starts.data(), args.batch.context_len = lengths.data();
    args.batch.block_tables = tables.data(), args.batch.positions = positions.data();
    if (dtype == DType::f32) {
      op(args);
      return out.download();
    }
    const DeviceArray<uint16_t> rounded(std::vector<uint16_t>(q_.size(), 0x7fc0));
    args.out = {rounded.data(), DType::bf16, paged_.tokens(), width_, width_};
    op(args);
    std::vector<float> values;
    for (uint16_t bits : rounded.download()) values.push_back(bf16_to_f32(bits));
    return values;
  }

  /// "" or the row (token, head) that is furthest from `expected`, in lengths of the row.
  std::string worst(const std::vector<float>& expected, const std::vector<float>& found,
                    double tolerance = kTolerance) const {
    double most = tolerance;
    std::string text;
    const int hd = shape_.head_dim;
    for (size_t row = 0; row < expected.size() / static_cast<size_t>(hd); ++row) {
      double error = 0, norm = 0;
      for (size_t i = row * static_cast<size_t>(hd); i < (row + 1) * static_cast<size_t>(hd); ++i) {
        error += std::pow(double{found[i]} - expected[i], 2);
        norm += std::pow(double{expected[i]}, 2);
      }
      const double distance = std::sqrt(error / norm);
      if (distance <= most) continue;
      most = std::isnan(distance) ? INFINITY : distance;
      const auto heads = static_cast<size_t>(width_ / hd);
      text = cat("token ", row / heads, " head ", row % heads, ": off by ", distance, " of its length");
    }
    return text;
  }

  const Shape& shape() const { return shape_; }

 private:
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)); }
  AttentionArgs common() const {
    AttentionArgs args = {};
    args.num_heads = shape_.group * shape_.num_kv_heads;
    args.softcap = shape_.softcap;
    args.sliding_window = shape_.window;
    return args;
  }

  Shape shape_;
  PagedBatch paged_;
  int64_t width_ = 0;
  std::vector<float> q_;
};

struct PrefillKernel {
  const char* name;
  void (*run)(const AttentionArgs&, const ScoresBuffer&, const LaunchContext&);
  bool (*takes)(int head_dim, int major);
};
bool any(int, int) { return true; }
bool has_wgmma(int head_dim, int major) { return major == 9 && head_width(head_dim)->wgmma; }
constexpr PrefillKernel kPrefillKernels[] = {
    {"tiled", [](auto& args, auto&, auto& context) { attention_tiled(args, context); }, any},
    {"fa2", [](auto& args, auto&, auto& context) { attention_fa2(args, Fa2Sums::fp32, context); },
     [](int head_dim, int) { return head_dim == 128; }},
    {"wgmma", [](auto& args, auto&, auto& context) { attention_wgmma(args, context); }, has_wgmma},
    // So few blocks that each has many tiles of rows to do, and an odd number of rounds.
    {"wgmma on 3 SMs",
     [](auto& args, auto&, auto& context) {
       LaunchContext few = context;
       few.num_sms = 3;
       attention_wgmma(args, few);
     },
     has_wgmma},
    {"scores", [](auto& args, auto& scores, auto& context) { attention_scores(args, scores, context); }, any},
    // Twice too little memory for one tile of rows, or a little more than that: rows come in slices.
    {"scores in slices",
     [](auto& args, auto& scores, auto& context) {
       const int64_t row = (args.batch.max_context_len + 63) / 64 * 64 * 2 * args.cache.num_kv_heads;
       attention_scores(args, {scores.data, args.batch.max_context_len % 2 ? 30 * row : 100 * row}, context);
     },
     any}};

struct Device : TestDevice {
  int major = 0;
  Device() { check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "cudaDeviceGetAttribute"); }
  static constexpr int64_t kScoresHalves = int64_t{8} << 20;
  DeviceArray<uint16_t> scores{std::vector<uint16_t>(kScoresHalves, 0x7e00)};

  /// The largest distance of any prefill kernel that takes this head width, in both types of output: "" or which.
  std::string prefill(Problem& problem, const std::vector<float>& expected) {
    for (const PrefillKernel& kernel : kPrefillKernels) {
      if (!kernel.takes(problem.shape().head_dim, major)) continue;
      for (const DType dtype : {DType::f32, DType::bf16}) {
        const std::vector<float> found = problem.on_device(
            [&](const AttentionArgs& args) { kernel.run(args, {scores.data(), kScoresHalves * 2}, context(true)); },
            dtype);
        const std::string text = problem.worst(expected, found, dtype == DType::bf16 ? kBf16Tolerance : kTolerance);
        if (!text.empty()) return cat(kernel.name, dtype == DType::bf16 ? " to bf16: " : ": ", text);
      }
    }
    return "";
  }
};

constexpr int kHeadDims[] = {16, 32, 64, 80, 96, 128, 256};

}  // namespace

TEST_CASE("prefill: every head width and group, whole prompts and chunks after a context") {
  Random random(6);
  Device device;
  for (int head_dim : kHeadDims) {
    for (int group : few({1, 3, 4, 8}, {3})) {
      const Problem::Sequences many = {{1, 1}, {17, 17}, {90, 90}, {33, 210}, {1, 77}, {64, 128}};
      Problem problem({group, 2, head_dim, 0, 0, 1, 2}, few(many, {{1, 1}, {17, 17}, {33, 100}}), random);
      CAPTURE(head_dim);
      CAPTURE(group);
      CHECK(device.prefill(problem, problem.expected()) == "");
    }
  }
}

TEST_CASE("prefill: windows, softcap, a long prompt, sharp scores") {
  Random random(7);
  Device device;
  for (const Shape& shape :
       {Shape{2, 1, 256, 100}, Shape{4, 1, 64, 33}, Shape{4, 1, 128, 1}, Shape{1, 2, 96, 0, 30.0f, 3, 3},
        Shape{2, 1, 128, 64, 5.0f, 2, 2}, Shape{1, 1, 64, 0, 0, 6, 6}}) {
    const Problem::Sequences pieces = {{150, 150}, {20, 600}, {3, 5000}};
    Problem problem(shape, few(pieces, {{70, 70}, {20, 150}, {3, 300}}), random);
    CAPTURE(shape.head_dim);
    CAPTURE(shape.window);
    CHECK(device.prefill(problem, problem.expected()) == "");
  }
}

TEST_CASE("prefill: 600 tokens at once") {
  Random random(8);
  Device device;
  const int tokens = few(600, 200);
  Problem problem({2, 1, 128, 0, 0, 1, 2}, {{tokens, tokens}}, random);
  CHECK(device.prefill(problem, problem.expected()) == "");
}

TEST_CASE("fa2: sums in f16 stay close, and finite where products are large") {
  Random random(9);
  Device device;
  for (const Shape& shape : {Shape{4, 2, 128, 0, 0, 1, 1}, Shape{1, 1, 128, 70, 20, 1, 1}}) {
    const Problem::Sequences pieces = {{300, 300}, {33, 210}, {1, 77}};
    Problem problem(shape, few(pieces, {{100, 100}, {33, 110}, {1, 77}}), random);
    const std::vector<float> expected = problem.expected();
    for (const auto& [sums, tolerance] : {std::pair{Fa2Sums::f16_scores, 6e-3}, {Fa2Sums::f16, 8e-3}}) {
      const std::vector<float> found =
          problem.on_device([&](const AttentionArgs& args) { attention_fa2(args, sums, device.context(true)); });
      CHECK(problem.worst(expected, found, tolerance) == "");
      CHECK(problem.worst(expected, found, 1e-5) != "");  // f16 is not fp32
    }
  }
  CHECK(device.launches.at("attention_fa2_accf16") == 2);
  CHECK(device.launches.at("attention_fa2_accf16_pv") == 2);
  // q . k up to some 5e4, which is 5e3 as a score: f16 holds 65504.
  Problem large({2, 1, 128, 0, 0, 30, 12}, {{100, 100}}, random);
  for (const Fa2Sums sums : {Fa2Sums::f16_scores, Fa2Sums::f16}) {
    const std::vector<float> found =
        large.on_device([&](const AttentionArgs& args) { attention_fa2(args, sums, device.context(true)); });
    CHECK(std::ranges::all_of(found, [](float x) { return std::isfinite(x) && std::abs(x) < 20; }));
  }
}

TEST_CASE("fa2: sums of P V in f16 over 16384 keys") {
  Random random(10);
  Device device;
  Problem problem({4, 1, 128, 0, 0, 0.1f, 0.1f}, {{40, few(16384, 600)}}, random);  // all keys count about the same
  const std::vector<float> expected = problem.expected();
  const std::vector<float> found =
      problem.on_device([&](const AttentionArgs& args) { attention_fa2(args, Fa2Sums::f16, device.context(true)); });
  CHECK(problem.worst(expected, found, 1e-2) == "");
}

TEST_CASE("prefill: a chunk after a long context, and many prompts at once") {
  Random random(11);
  Device device;
  const Problem::Sequences after_context = {{200, 3001}};
  Problem chunk({4, 2, 128, 0, 0, 1, 2}, few(after_context, {{70, 501}}), random);
  CHECK(device.prefill(chunk, chunk.expected()) == "");
  const Problem::Sequences prompts = {{128, 128}, {127, 127}, {129, 129}, {1, 1}, {255, 400}, {16, 16}, {5, 999}};
  Problem many({4, 2, 64, 0, 0, 1, 2}, few(prompts, {{65, 65}, {1, 1}, {40, 100}, {5, 99}}), random);
  CHECK(device.prefill(many, many.expected()) == "");
}

TEST_CASE("wgmma repeats bit for bit, whoever computes which tile") {
  Random random(12);
  Device device;
  if (!has_wgmma(128, device.major)) return;
  const Problem::Sequences pieces = {{700, 700}, {100, 1000}, {1, 5}};
  Problem problem({4, 2, 128, 0, 0, 1, 2}, few(pieces, {{200, 200}, {50, 300}, {1, 5}}), random);
  const auto on = [&](int num_sms) {
    return problem.on_device([&](const AttentionArgs& args) {
      LaunchContext context = device.context(true);
      context.num_sms = num_sms;
      attention_wgmma(args, context);
    });
  };
  const std::vector<float> first = on(132);
  for (int num_sms : few({1, 2, 7, 50, 132, 132, 132}, {1, 7, 132})) CHECK(same_bits(on(num_sms), first));
}
