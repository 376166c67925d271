#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <set>

#include "core/half.h"
#include "cpu/linear.h"
#include "quant/format.h"
#include "reference/reference.h"
#include "support/compare.h"
#include "support/random.h"
#include "support/weight_matrix.h"

using namespace imp;
using namespace imp::cpu;
using imp::test::Random;
using imp::test::same_bits;
using imp::test::WeightMatrix;

namespace {

/// Everything a call needs but the arguments. Scratch is filled with NaN before each.
struct Bench {
  ThreadPool pool;
  std::vector<std::byte> memory;
  std::span<std::byte> scratch;
  LinearSwitches switches;
  LinearLog log;
  std::vector<std::string> launched;

  explicit Bench(int threads = 2, int64_t m = 64, int64_t k = 4096) : pool(threads) {
    const int64_t bytes = linear_scratch_bytes(m, k, threads);
    memory.resize(bytes + 64);
    const auto address = reinterpret_cast<uintptr_t>(memory.data());
    scratch = {memory.data() + (64 - address % 64) % 64, static_cast<size_t>(bytes)};
    log.launched = [this](std::string_view name) { launched.emplace_back(name); };
  }
  void run(const LinearArgs& args, std::string_view forced = {}, Isa isa = detect_isa()) {
    std::memset(scratch.data(), 0xff, scratch.size());
    run_linear({pool, isa, forced, scratch}, switches, args, log);
  }
};

bool is_integer(LinearFamily family) { return family <= LinearFamily::mmq; }

/// The activations as the integer kernels see them: 32 share a scale amax / 127.
std::vector<float> through_int8(const std::vector<float>& x) {
  std::vector<float> seen(x.size());
  for (size_t begin = 0; begin < x.size(); begin += 32) {
    float amax = 0;
    for (size_t i = begin; i < begin + 32; ++i) amax = std::max(amax, std::fabs(x[i]));
    const float inverse = amax > 0 ? 127.0f / amax : 0;
    for (size_t i = begin; i < begin + 32; ++i) seen[i] = std::nearbyint(x[i] * inverse) * (amax / 127.0f);
  }
  return seen;
}

struct Expected {
  std::vector<double> value;
  std::vector<double> magnitude;  // sum |w| |x|: what rounding errors are relative to
};

Expected product(const std::vector<float>& x, const WeightMatrix& w, int64_t m) {
  const int64_t n = w.view.rows, k = w.view.cols;
  Expected expected{std::vector<double>(m * n), std::vector<double>(m * n)};
  for (int64_t t = 0; t < m; ++t) {
    for (int64_t r = 0; r < n; ++r) {
      double sum = 0, magnitude = 0;
      for (int64_t c = 0; c < k; ++c) {
        const double p = static_cast<double>(w.values[r * k + c]) * x[t * k + c];
        sum += p;
        magnitude += std::fabs(p);
      }
      expected.value[t * n + r] = sum;
      expected.magnitude[t * n + r] = magnitude;
    }
  }
  return expected;
}

/// "" or the worst excess over `relative` of the magnitude.
std::string worst(const Expected& expected, int64_t n_all, const std::vector<float>& y, int64_t m, int64_t n,
                  double relative) {
  double most = 0;
  std::string text;
  for (int64_t t = 0; t < m; ++t) {
    for (int64_t r = 0; r < n; ++r) {
      const int64_t i = t * n_all + r;
      const double error = std::fabs(y[t * n + r] - expected.value[i]) / (expected.magnitude[i] + 1e-30);
      if (error <= relative || error <= most) continue;
      most = std::isnan(error) ? INFINITY : error;
      text = cat("token ", t, " row ", r, ": expected ", expected.value[i], " found ", y[t * n + r], " error ", error);
    }
    for (int64_t r = 0; r < n; ++r) {
      if (!std::isfinite(y[t * n + r])) return cat("token ", t, " row ", r, " is not finite");
    }
  }
  return text;
}

constexpr int64_t kTokens[] = {0, 1, 2, 3, 5, 8, 13, 16, 33};
constexpr int64_t kRows[] = {1, 7, 16, 33, 100};

/// fp32 kernels: a sum of k products of fp32 in any order errs by less than sqrt(k) 2^-24 of the magnitude in
/// practice, 4e-6 at k = 4096. Integer kernels have a cancelling zero point of up to 128 scales on top.
constexpr double kRoundingTolerance = 1e-5;
/// Weights that fp32 rounding moves over the middle between two f16 end half a step of 2^-10 apart.
constexpr double kF16Tolerance = 0x1p-11 + kRoundingTolerance;

WeightMatrix rounded_to_f16(const WeightMatrix& w) {
  WeightMatrix rounded = w;
  for (float& value : rounded.values) value = f16_to_f32(f32_to_f16(value));
  return rounded;
}

void check_candidate(Bench& bench, const LinearTable::Entry& entry, const std::vector<float>& x, const WeightMatrix& w,
                     const Expected& exact, const Expected& quantized, std::set<std::string_view>& ran) {
  const bool head = entry.launch.family == LinearFamily::dequant_lm_head;
  const Expected rounded = head ? product(x, rounded_to_f16(w), 33) : Expected{};
  bench.switches = {.lm_dequant_fp16 = head};
  const auto try_size = [&](int64_t m, int64_t n) {
    const LinearProblem problem = {
        detect_isa(), head ? LinearRole::lm_head : LinearRole::qkv, w.view.format, m, n, w.view.cols, bench.switches};
    if (entry.reject(problem)) return;
    std::vector<float> y(m * n, NAN), input(x);
    WeightView part = w.view;
    part.rows = n;
    const LinearOutput output = {part, nullptr, f32_view(y.data(), m, n)};
    LinearArgs args = {.x = f32_view(input.data(), m, w.view.cols), .outputs = {&output, 1}, .role = problem.role};
    bench.run(args, entry.name);
    const bool integers = is_integer(entry.launch.family);
    CAPTURE(entry.name);
    CAPTURE(m);
    CAPTURE(n);
    CAPTURE(w.view.cols);
    CHECK(worst(head       ? rounded
                : integers ? quantized
                           : exact,
                w.view.rows, y, m, n, head ? kF16Tolerance : kRoundingTolerance) == "");
    if (m > 0) ran.insert(entry.name);
  };
  for (int64_t m : kTokens) try_size(m, 33);
  for (int64_t n : kRows) {
    try_size(1, n);
    try_size(3, n);
    try_size(13, n);
  }
}

}  // namespace

TEST_CASE("every candidate of every format computes the product") {
  Random random(1);
  Bench bench;
  for (const FormatInfo& format : all_formats()) {
    std::set<std::string_view> ran;
    const LinearTable& table = linear_table(format.format);
    std::set<int64_t> widths;
    for (int64_t k : {32, 96, 256, 352, 576, 736, 2048})
      widths.insert((k + format.block_elements - 1) / format.block_elements * format.block_elements);
    if (format.block_elements == 1) widths.insert({1, 7, 33, 259});
    for (int64_t k : widths) {
      const WeightMatrix w(format.format, 100, k, random);
      const std::vector<float> x = random.outlier_heavy(33, k);
      const Expected exact = product(x, w, 33);
      const Expected quantized = k % 32 ? exact : product(through_int8(x), w, 33);
      for (const auto& entry : table.entries()) check_candidate(bench, entry, x, w, exact, quantized, ran);
    }
    for (const auto& entry : table.entries()) {
      if (entry.launch.isa > detect_isa() || entry.launch.family == LinearFamily::gemv_dp4a_skip) continue;
      CAPTURE(entry.name);
      CHECK(ran.count(entry.name) == 1);
    }
  }
}

namespace {

/// A call with every optional part, and its result by the oracle.
struct FullCall {
  int64_t m, k;
  std::vector<float> x, norm;
  std::vector<int32_t> rows;
  std::vector<WeightMatrix> weights;
  std::vector<std::vector<float>> bias, y, expected;
  std::vector<double> allowed_int;  // of each output: what rounding activations to int8 can change at most
  std::vector<LinearOutput> outputs;
  LinearArgs args;

  FullCall(int64_t tokens, int64_t cols, std::vector<std::pair<WeightFormat, int64_t>> shapes, Random& random)
      : m(tokens), k(cols), x(random.outlier_heavy(tokens + 3, cols)), norm(random.normals(cols)) {
    for (int64_t t = 0; t < m; ++t) rows.push_back(static_cast<int32_t>((t * 7 + 2) % (m + 3)));
    for (const auto& [format, n] : shapes) {
      weights.emplace_back(format, n, k, random, weights.empty() ? 1.0f : 0.75f);
      bias.push_back(random.normals(n, 0.1f));
      y.push_back(random.normals(m * n));
    }
    for (size_t i = 0; i < weights.size(); ++i)
      outputs.push_back({weights[i].view, bias[i].data(), f32_view(y[i].data(), m, weights[i].view.rows)});
    args = {.x = f32_view(x.data(), m + 3, k),
            .row_indices = rows.data(),
            .num_rows = m,
            .norm_weight = norm.data(),
            .norm_epsilon = 1e-5f,
            .outputs = outputs};
  }

  void make_expected() {
    const auto before = y;
    reference::linear(args);
    expected = y;
    y = before;
    for (size_t i = 0; i < y.size(); ++i) outputs[i].y.data = y[i].data();
  }
};

double rms(const std::vector<float>& values) {
  double sum = 0;
  for (float v : values) sum += static_cast<double>(v) * v;
  return std::sqrt(sum / static_cast<double>(values.size()));
}

double rms_error(const std::vector<float>& a, const std::vector<float>& b) {
  std::vector<float> d(a.size());
  for (size_t i = 0; i < a.size(); ++i) d[i] = a[i] - b[i];
  return rms(d) / rms(a);
}

constexpr Isa kIsas[] = {Isa::reference, Isa::avx2, Isa::avx512};

}  // namespace

TEST_CASE("norm, row choice, bias, residual and several outputs of different formats") {
  Random random(2);
  Bench bench;
  for (Isa isa : kIsas) {
    if (isa > detect_isa()) continue;
    for (bool integers : {false, true}) {
      for (bool accumulate : {false, true}) {
        for (int64_t m : {1, 3, 6, 40}) {
          FullCall call(m, 576, {{WeightFormat::q4_1, 70}, {WeightFormat::q8_0, 33}, {WeightFormat::f16, 16}}, random);
          call.args.accumulate = accumulate;
          call.make_expected();
          bench.switches = {.no_mmvq = !integers};
          bench.run(call.args, {}, isa);
          for (size_t i = 0; i < 3; ++i) {
            CAPTURE(isa_name(isa));
            CAPTURE(m);
            CAPTURE(i);
            // Eight bits with one outlier of 100 among 32 leave about 1 % of the norm; fp32 leaves nothing to see.
            const bool rounded = integers && i < 2 && isa != Isa::reference;
            CHECK(rms_error(call.expected[i], call.y[i]) < (rounded ? 2e-2 : 2e-6));
          }
        }
      }
    }
  }
}

TEST_CASE("gated outputs: activation(gate) * up, also of two formats") {
  Random random(3);
  Bench bench;
  for (Isa isa : kIsas) {
    if (isa > detect_isa()) continue;
    for (Activation activation : {Activation::silu, Activation::gelu_tanh}) {
      for (WeightFormat up : {WeightFormat::q5_0, WeightFormat::bf16}) {
        for (int64_t m : {1, 2, 9, 64}) {
          FullCall call(m, 640, {{WeightFormat::q5_0, 100}, {up, 100}}, random);
          call.args.gated = true;
          call.args.activation = activation;
          call.make_expected();
          for (bool integers : {false, true}) {
            bench.switches = {.no_mmvq = !integers};
            bench.run(call.args, {}, isa);
            CAPTURE(isa_name(isa));
            CAPTURE(m);
            CHECK(rms_error(call.expected[0], call.y[0]) < (integers && isa != Isa::reference ? 3e-2 : 4e-6));
          }
        }
      }
    }
  }
}

TEST_CASE("results do not depend on the number of threads and repeat bit by bit") {
  for (int64_t m : {1, 4, 23, 64}) {
    std::vector<std::vector<float>> first;
    for (int threads : {1, 2, 3, 5, 2}) {
      Random random(4);
      FullCall real(m, 768, {{WeightFormat::q4_k, 200}, {WeightFormat::q6_k, 75}, {WeightFormat::f32, 40}}, random);
      Bench bench(threads);
      bench.run(real.args);
      if (first.empty()) first = real.y;
      for (size_t i = 0; i < first.size(); ++i) CHECK(same_bits(first[i], real.y[i]));
    }
  }
}

TEST_CASE("tokens of a batch do not touch each other; more tokens than a block of scratch") {
  Random random(5);
  const int64_t m = 1100, k = 64, n = 40;
  Bench bench(2, m, k);
  const WeightMatrix w(WeightFormat::q4_0, n, k, random);
  std::vector<float> x = random.normals(m * k), y(m * n), part(8 * n);
  const LinearOutput output = {w.view, nullptr, f32_view(y.data(), m, n)};
  bench.run({.x = f32_view(x.data(), m, k), .outputs = {&output, 1}});
  for (int64_t begin : {0, 505, 1023, 1092}) {
    const LinearOutput few = {w.view, nullptr, f32_view(part.data(), 8, n)};
    bench.run({.x = f32_view(x.data() + begin * k, 8, k), .outputs = {&few, 1}});
    CHECK(same_bits(std::span(y).subspan(begin * n, 8 * n), part));
  }
}

TEST_CASE("two to four tokens together are each what they are alone, bit by bit") {
  Random random(9);
  Bench bench;
  const int64_t k = 768, n = 40;
  for (WeightFormat format : {WeightFormat::q4_1, WeightFormat::q8_0, WeightFormat::q3_k, WeightFormat::nvfp4}) {
    const WeightMatrix w(format, n, k, random);
    std::vector<float> x = random.outlier_heavy(4, k), alone(4 * n);
    const auto run = [&](int64_t first, int64_t m, float* to) {
      const LinearOutput output = {w.view, nullptr, f32_view(to, m, n)};
      bench.run({.x = f32_view(x.data() + first * k, m, k), .outputs = {&output, 1}});
    };
    for (int64_t t = 0; t < 4; ++t) run(t, 1, &alone[t * n]);
    for (int64_t m = 2; m <= 4; ++m) {
      std::vector<float> together(m * n);
      run(0, m, together.data());
      CHECK(same_bits(std::span(alone).first(m * n), together));
    }
  }
}

TEST_CASE("a NaN or infinity in one token's activations shows in all its results and nowhere else") {
  Random random(6);
  Bench bench;
  const int64_t k = 288, n = 20;
  for (WeightFormat format : {WeightFormat::q8_0, WeightFormat::q5_1, WeightFormat::f16}) {
    const WeightMatrix w(format, n, k, random);
    for (float bad : {NAN, INFINITY, -INFINITY}) {
      for (int64_t m : {1, 3, 9}) {
        std::vector<float> x = random.normals(m * k), y(m * n);
        x[(m - 1) * k + 77] = bad;
        const LinearOutput output = {w.view, nullptr, f32_view(y.data(), m, n)};
        bench.run({.x = f32_view(x.data(), m, k), .outputs = {&output, 1}});
        for (int64_t i = 0; i < m * n; ++i) CHECK(std::isfinite(y[i]) == (i < (m - 1) * n));
      }
    }
  }
}

TEST_CASE("quiet blocks are passed over, counted, and a threshold of 0 changes no bit") {
  if (detect_isa() == Isa::reference) return;
  Random random(7);
  Bench bench;
  const int64_t k = 1536, n = 50;
  const WeightMatrix w(WeightFormat::q8_0, n, k, random);
  std::vector<float> x = random.normals(k);
  for (int64_t i = 320; i < 640; ++i) x[i] *= 1e-4f;
  std::vector<float> plain(n), y(n), expected(n);
  const auto run = [&](std::vector<float>& to, float threshold) {
    const LinearOutput output = {w.view, nullptr, f32_view(to.data(), 1, n)};
    const LinearArgs args = {
        .x = f32_view(x.data(), 1, k), .outputs = {&output, 1}, .role = LinearRole::down, .skip_threshold = threshold};
    bench.launched.clear();
    bench.log.skipped_blocks = bench.log.skippable_blocks = 0;
    bench.run(args);
    if (threshold > 0) {
      const LinearOutput oracle = {w.view, nullptr, f32_view(expected.data(), 1, n)};
      LinearArgs same = args;
      same.outputs = {&oracle, 1};
      reference::linear(same);
    }
  };
  run(plain, 0);
  CHECK(bench.launched[0].starts_with("gemv_dp4a_q8_0_"));
  CHECK(bench.log.skippable_blocks == 0);
  run(y, 0.01f);
  CHECK(bench.launched[0].starts_with("gemv_dp4a_skip_q8_0_"));
  CHECK(bench.log.skippable_blocks == n * k / 32);
  CHECK(bench.log.skipped_blocks == n * 10);
  CHECK(rms_error(expected, y) < 1e-2);
  run(y, 1e9f);
  CHECK(bench.log.skipped_blocks == n * k / 32);
  for (float value : y) CHECK(value == 0);
}

TEST_CASE("the choice of a kernel follows size, instruction set and switches") {
  const auto chosen = [](LinearProblem p) { return std::string(linear_table(p.format).select(p).name); };
  LinearProblem p = {Isa::avx512, LinearRole::qkv, WeightFormat::q4_k, 1, 576, 576, {}, false};
  CHECK(chosen(p) == "gemv_dp4a_q4_k_avx512");
  p.m = 3;
  CHECK(chosen(p) == "mmvq_q4_k_avx512");
  p.m = 128;
  CHECK(chosen(p) == "mmq_q4_k_avx512");
  p.isa = Isa::avx2;
  CHECK(chosen(p) == "mmq_q4_k_avx2");
  p.isa = Isa::reference;
  CHECK(chosen(p) == "reference");
  p = {Isa::avx2, LinearRole::qkv, WeightFormat::bf16, 1, 576, 576, {}, false};
  CHECK(chosen(p) == "gemv_dequant_bf16_avx2");

  p = {Isa::avx512, LinearRole::lm_head, WeightFormat::q8_0, 1, 576, 576, {.no_dp4a_gemv = true}, false};
  CHECK(chosen(p) == "gemv_dequant_q8_0_avx512");
  p.switches = {.no_dp4a_lm = true};
  CHECK(chosen(p) == "gemv_dequant_q8_0_avx512");
  p.role = LinearRole::down;
  CHECK(chosen(p) == "gemv_dp4a_q8_0_avx512");
  p.skip = true;
  CHECK(chosen(p) == "gemv_dp4a_skip_q8_0_avx512");
  p.switches = {.no_mmvq_q8_0 = true};
  CHECK(chosen(p) == "gemv_dequant_q8_0_avx512");
  p.format = WeightFormat::q6_k;
  CHECK(chosen(p) == "gemv_dp4a_q6_k_avx512");
  for (int64_t m : {1, 2, 100}) {
    for (const FormatInfo& format : all_formats()) {
      p = {Isa::avx512, LinearRole::qkv, format.format, m, 576, 576, {.no_mmvq = true}, false};
      CHECK(chosen(p).find(m == 1 ? "gemv_dequant_" : "gemm_dequant_") == 0);
      p.switches = {.lm_dequant_fp16 = true};
      p.role = LinearRole::lm_head;
      CHECK(chosen(p).find("dequant_lm_head_") == 0);
    }
  }
}

TEST_CASE("too little scratch is refused before anything is written") {
  Random random(8);
  Bench bench(2, 1, 64);
  const WeightMatrix w(WeightFormat::q4_0, 8, 1024, random);
  std::vector<float> x = random.normals(8 * 1024), y(64, -1.0f);
  const LinearOutput output = {w.view, nullptr, f32_view(y.data(), 8, 8)};
  CHECK_THROWS_AS(bench.run({.x = f32_view(x.data(), 8, 1024), .outputs = {&output, 1}}), Error);
  for (float value : y) CHECK(value == -1.0f);
}
