#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <set>

#include "backend/bf16_gemm.h"
#include "backend/fp8_gemm.h"
#include "backend/linear_ops.h"
#include "linear/gemm_wgmma.h"
#include "linear/gemv.h"
#include "linear/gemv_mma.h"
#include "reference/reference.h"
#include "support/capture_stderr.h"
#include "support/compare.h"
#include "support/cuda_device.h"
#include "support/few.h"

using namespace imp;
using namespace imp::cuda;
using namespace imp::test;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// How a candidate sees its operands; the sums are fp32 everywhere.
enum class Arithmetic { exact, int8, bf16 };

Arithmetic arithmetic_of(std::string_view candidate) {
  if (candidate == "gemv_dp4a" || candidate == "gemv_mma" || candidate == "gemm_imma") return Arithmetic::int8;
  const bool bf16 = candidate == "dequant_gemm_bf16" || candidate == "gemm_hmma" || candidate == "gemm_wgmma";
  return bf16 ? Arithmetic::bf16 : Arithmetic::exact;
}

/// fp32 sums of k products err by less than 1e-5 of sum |w h|; formats with a minimum subtract two larger sums.
constexpr double kSums = 2e-5;
/// A norm computed in another order may move a value over the middle between two bf16 numbers: a step of 2^-7, but only
/// for a few of the k.
constexpr double kBf16Flip = 0x1p-8;

struct Operand {
  WeightMatrix host;
  PackedMatrix device;
  std::vector<float> bias;
  Operand(WeightFormat format, int64_t n, int64_t k, Random& random, const LaunchContext& context, float scale = 1)
      : host(format, n, k, random, scale), device(host, context), bias(random.normals(n, 0.1f)) {}
};

/// Device memory that linears work in, full of NaN.
struct Workspace {
  static constexpr int64_t kTokens = 260, kCols = 12288, kIntermediate = 2048;
  TestDevice device;
  CublasLt cublaslt;
  DeviceArray<uint16_t> x_bf16{std::vector<uint16_t>(kTokens * kCols, 0x7fc0)};
  DeviceArray<uint16_t> weight_bf16;
  DeviceArray<float> gate_up{std::vector<float>(kTokens * kIntermediate, kNan)};
  DeviceArray<float> x_scales{std::vector<float>(kTokens, kNan)};
  DeviceMemory library{size_t{32} << 20};
  DeviceArray<uint8_t> imma_tokens{std::vector<uint8_t>(imma_tokens_bytes(kImmaMaxTokens, kCols), 0xff)};
  DeviceArray<float> imma_partial{std::vector<float>(1 << 20, kNan)};
  DeviceArray<int32_t> imma_counters{std::vector<int32_t>(64, 0)};
  int64_t weight_elements;

  explicit Workspace(int64_t elements = 4 << 20)
      : weight_bf16(std::vector<uint16_t>(elements, 0x7fc0)), weight_elements(elements) {
    cublaslt.open(library.data(), library.bytes(), {});
  }
  LinearContext context(bool pdl = false) {
    return {.launch = device.context(pdl),
            .switches = {},
            .cublaslt = &cublaslt,
            .x_bf16 = x_bf16.data(),
            .weight_bf16 = weight_bf16.data(),
            .weight_elements = weight_elements,
            .gate_up = gate_up.data(),
            .gate_up_bytes = 4 * kTokens * kIntermediate,
            .x_scales = x_scales.data(),
            .imma = {.tokens = imma_tokens.data(),
                     .tokens_bytes = imma_tokens_bytes(kImmaMaxTokens, kCols),
                     .partial = imma_partial.data(),
                     .partial_bytes = 4 << 20,
                     .counters = imma_counters.data(),
                     .num_counters = 64},
            .capability = device.capability};
  }
};

struct Options {
  bool norm = false, rows = false, bias = false, accumulate = false, gated = false, pdl = false;
  Activation activation = Activation::silu;
};

/// One linear on the device and what it should give.
class Call {
 public:
  Call(int64_t m, std::vector<const Operand*> weights, const Options& options, Random& random)
      : m_(m), k_(weights[0]->host.view.cols), options_(options), weights_(std::move(weights)) {
    const int64_t x_rows = m + 3;
    x_stride_ = k_ + 4;
    x_ = random.outlier_heavy(x_rows, x_stride_);
    norm_ = random.normals(k_);
    for (int64_t t = 0; t < m; ++t) rows_.push_back(static_cast<int32_t>(options.rows ? (t * 7 + 2) % x_rows : t));
    for (const Operand* w : weights_) {
      // Rows of y lie 5 apart from each other: a kernel that takes n for the stride is wrong.
      const int64_t stride = w->host.view.rows + 5;
      y_before_.push_back(options.accumulate ? random.normals(m * stride) : std::vector<float>(m * stride, kNan));
    }
  }

  void spoil(int64_t token, int64_t col, float value) { x_[rows_[token] * x_stride_ + col] = value; }

  void run(Workspace& workspace, std::string_view forced, std::vector<std::vector<float>>& y) {
    run_with(workspace, y,
             [&](const LinearContext& context, const LinearArgs& args) { run_linear(context, args, forced); });
  }
  /// By `linear(context, args)`.
  template <class Linear>
  void run_with(Workspace& workspace, std::vector<std::vector<float>>& y, const Linear& linear) {
    const DeviceArray<float> x(x_), norm(norm_);
    const DeviceArray<int32_t> rows(rows_);
    std::vector<std::unique_ptr<DeviceArray<float>>> bias, out;
    std::vector<LinearOutput> outputs;
    for (size_t i = 0; i < weights_.size(); ++i) {
      const int64_t n = weights_[i]->host.view.rows;
      bias.push_back(std::make_unique<DeviceArray<float>>(weights_[i]->bias));
      out.push_back(std::make_unique<DeviceArray<float>>(y_before_[i]));
      outputs.push_back({weights_[i]->device.view(),
                         options_.bias ? bias.back()->data() : nullptr,
                         {out.back()->data(), DType::f32, m_, n, n + 5}});
    }
    LinearArgs args = {.x = {x.data(), DType::f32, options_.rows ? m_ + 3 : m_, k_, x_stride_}, .outputs = outputs};
    if (options_.rows) args.row_indices = rows.data(), args.num_rows = m_;
    if (options_.norm) args.norm_weight = norm.data(), args.norm_epsilon = 1e-5f;
    args.accumulate = options_.accumulate;
    args.gated = options_.gated;
    args.activation = options_.activation;
    linear(workspace.context(options_.pdl), args);
    y.clear();
    for (const auto& array : out) y.push_back(array->download());
  }

  /// "" or the first element of the worst output that is further from the host's result than this arithmetic explains.
  std::string check(const std::vector<std::vector<float>>& y, const std::vector<Arithmetic>& arithmetic) {
    if (arithmetic != known_) {
      known_ = arithmetic;
      products_.clear();
      for (size_t i = 0; i < weights_.size(); ++i) products_.push_back(compute(*weights_[i], arithmetic[i]));
    }
    const std::vector<Products>& products = products_;
    for (size_t i = 0; i < weights_.size(); ++i) {
      const int64_t n = weights_[i]->host.view.rows;
      for (int64_t t = 0; t < m_; ++t) {
        for (int64_t r = 0; r < n + 5; ++r) {
          const float found = y[i][t * (n + 5) + r], before = y_before_[i][t * (n + 5) + r];
          if (r >= n || (options_.gated && i == 1)) {
            if (std::memcmp(&found, &before, 4) != 0)
              return cat("output ", i, " token ", t, " row ", r, " is not of this linear");
            continue;
          }
          Element e = products[i].at(t * n + r);
          if (options_.gated) e = gate(e, products[1].at(t * n + r));
          if (options_.accumulate) e.value += before, e.allowed += std::fabs(before) * 1e-6;
          if (!(std::fabs(found - e.value) <= e.allowed + 1e-7 * std::fabs(e.value)))
            return cat("output ", i, " token ", t, " row ", r, ": expected ", e.value, ", found ", found, ", allowed ",
                       e.allowed);
        }
      }
    }
    return "";
  }

  /// |y - reference| / |reference| of output i, Euclidean: what the arithmetic costs against exact operands.
  double distance_to_reference(const std::vector<std::vector<float>>& y) const {
    std::vector<std::vector<float>> expected = y_before_;
    std::vector<LinearOutput> outputs;
    for (size_t i = 0; i < weights_.size(); ++i) {
      const int64_t n = weights_[i]->host.view.rows;
      outputs.push_back({weights_[i]->host.view,
                         options_.bias ? weights_[i]->bias.data() : nullptr,
                         {expected[i].data(), DType::f32, m_, n, n + 5}});
    }
    LinearArgs args = {.x = {const_cast<float*>(x_.data()), DType::f32, m_ + 3, k_, x_stride_},
                       .row_indices = rows_.data(),
                       .num_rows = m_,
                       .norm_weight = options_.norm ? norm_.data() : nullptr,
                       .norm_epsilon = 1e-5f,
                       .outputs = outputs,
                       .accumulate = options_.accumulate,
                       .gated = options_.gated,
                       .activation = options_.activation};
    reference::linear(args);
    double error = 0, norm = 0;
    for (size_t i = 0; i < (options_.gated ? 1 : y.size()); ++i) {
      const int64_t n = weights_[i]->host.view.rows;
      for (int64_t t = 0; t < m_; ++t) {
        for (int64_t at = t * (n + 5); at < t * (n + 5) + n; ++at) {
          error += std::pow(double(y[i][at]) - expected[i][at], 2);
          norm += std::pow(double(expected[i][at]), 2);
        }
      }
    }
    return std::sqrt(error / norm);
  }

 private:
  struct Element {
    double value, allowed;
  };
  struct Products {
    std::vector<double> value, allowed;
    Element at(int64_t i) const { return {value[i], allowed[i]}; }
  };

  std::vector<double> input_row(int64_t t, Arithmetic arithmetic) const {
    const float* x = x_.data() + rows_[t] * x_stride_;
    double sum_sq = 0;
    for (int64_t c = 0; c < k_; ++c) sum_sq += double(x[c]) * x[c];
    const double rms = options_.norm ? 1 / std::sqrt(sum_sq / double(k_) + 1e-5f) : 1;
    std::vector<double> h(k_);
    for (int64_t c = 0; c < k_; ++c) {
      const float weighted = options_.norm ? x[c] * norm_[c] : x[c];
      h[c] = arithmetic == Arithmetic::exact  ? weighted * rms
             : arithmetic == Arithmetic::bf16 ? bf16_to_f32(f32_to_bf16(static_cast<float>(weighted * rms)))
                                              : weighted;
    }
    if (arithmetic != Arithmetic::int8) return h;
    for (int64_t begin = 0; begin < k_; begin += 32) {
      float amax = 0;
      for (int64_t c = begin; c < begin + 32; ++c) amax = std::max(amax, static_cast<float>(std::fabs(h[c])));
      const float scale = amax / 127, inverse = amax > 0 ? 127 / amax : 0;
      for (int64_t c = begin; c < begin + 32; ++c)
        h[c] = std::nearbyint(static_cast<float>(h[c]) * inverse) * double(scale) * rms;
    }
    return h;
  }

  Products compute(const Operand& weights, Arithmetic arithmetic) const {
    const int64_t n = weights.host.view.rows;
    Products products{std::vector<double>(m_ * n), std::vector<double>(m_ * n)};
    std::vector<double> w(weights.host.values.begin(), weights.host.values.end());
    for (double& value : w) {
      value *= weights.host.view.scale;
      if (arithmetic == Arithmetic::bf16) value = bf16_to_f32(f32_to_bf16(static_cast<float>(value)));
    }
    for (int64_t t = 0; t < m_; ++t) {
      const std::vector<double> h = input_row(t, arithmetic);
      for (int64_t r = 0; r < n; ++r) {
        double sum = 0, magnitude = 0;
        for (int64_t c = 0; c < k_; ++c) {
          const double p = w[r * k_ + c] * h[c];
          sum += p;
          magnitude += std::fabs(p);
        }
        const bool may_flip = arithmetic == Arithmetic::bf16 && (options_.norm || weights.host.view.scale != 1);
        products.value[t * n + r] = sum + (options_.bias ? weights.bias[r] : 0);
        products.allowed[t * n + r] = magnitude * (may_flip ? kBf16Flip : kSums);
      }
    }
    return products;
  }

  Element gate(const Element& g, const Element& u) const {
    // |activation'| stays below 1.13; the activation itself is good to 2e-6 of its size.
    const double a = reference::activate(options_.activation, g.value);
    return {a * u.value, 1.13 * g.allowed * (std::fabs(u.value) + u.allowed) + std::fabs(a) * u.allowed +
                             4e-6 * std::fabs(a * u.value)};
  }

  int64_t m_, k_, x_stride_ = 0;
  Options options_;
  std::vector<const Operand*> weights_;
  std::vector<float> x_, norm_;
  std::vector<int32_t> rows_;
  std::vector<std::vector<float>> y_before_;
  std::vector<Arithmetic> known_;  // what products_ are of
  std::vector<Products> products_;
};

std::string run_and_check(Workspace& workspace, Call& call, std::string_view candidate, size_t outputs) {
  std::vector<std::vector<float>> y;
  call.run(workspace, candidate, y);
  return call.check(y, std::vector<Arithmetic>(outputs, arithmetic_of(candidate)));
}

LinearProblem problem_on(const Workspace& workspace, WeightFormat format, int64_t m, int64_t n, int64_t k) {
  return {.role = LinearRole::qkv,
          .format = format,
          .m = m,
          .n = n,
          .k = k,
          .max_shared_bytes = workspace.device.max_shared_bytes,
          .switches = {},
          .capability = workspace.device.capability};
}

bool can_run(const Workspace& workspace, std::string_view name, const Operand& w, int64_t m) {
  const WeightView& v = w.host.view;
  for (const Verdict& verdict : linear_table().explain(problem_on(workspace, v.format, m, v.rows, v.cols)))
    if (verdict.name == name) return !verdict.reason;
  return false;
}

const std::vector<int64_t> kTokens = few<int64_t>({1, 2, 3, 5, 8, 9, 16, 40, 130}, {1, 2, 3, 8, 40, 130});

/// The arithmetic of the candidate that the table takes.
Arithmetic chosen_arithmetic(const Workspace& workspace, WeightFormat format, int64_t m, int64_t n, int64_t k) {
  for (const Verdict& verdict : linear_table().explain(problem_on(workspace, format, m, n, k)))
    if (verdict.chosen) return arithmetic_of(verdict.name);
  return Arithmetic::exact;
}

}  // namespace

TEST_CASE("every candidate of every format computes the product at every number of tokens") {
  Random random(1);
  Workspace workspace;
  for (const FormatInfo& format : all_formats()) {
    std::set<std::string_view> ran;
    std::set<int64_t> widths;
    const int64_t unit = std::max(32, format.block_elements);
    for (int64_t k : few({32, 352, 1056, 2048}, {352, 2048})) widths.insert((k + unit - 1) / unit * unit);
    for (int64_t k : widths) {
      for (int64_t n : few({1, 37}, {37})) {
        const Operand w(format.format, n, k, random, workspace.device.context());
        for (const auto& entry : linear_table().entries()) {
          for (int64_t m : kTokens) {
            if (!can_run(workspace, entry.name, w, m) || (n == 1 && m > 3)) continue;
            Call call(m, {&w}, {}, random);
            CAPTURE(format.name);
            CAPTURE(entry.name);
            CAPTURE(k);
            CAPTURE(n);
            CAPTURE(m);
            CHECK(run_and_check(workspace, call, entry.name, 1) == "");
            ran.insert(entry.name);
          }
        }
      }
    }
    CAPTURE(format.name);
    std::set<std::string_view> expected = {"gemv_rows", "dequant_gemm_bf16"};
    if (format.block_elements > 1) {
      expected = {"gemv_dp4a", "gemm_imma", "dequant_gemm_bf16"};
      const bool wgmma = workspace.device.capability == 90 && !wgmma_reject(packed_layout_of(format.format));
      if (wgmma) expected.insert("gemm_wgmma");
      if (!gemv_mma_reject(packed_layout_of(format.format), 3, 2048, workspace.device.max_shared_bytes))
        expected.insert("gemv_mma");
    }
    CHECK(ran == expected);
  }
}

TEST_CASE("long rows, many rows") {
  Random random(2);
  Workspace workspace(1 << 20);  // a scratch smaller than the weight: the GEMM goes in slices
  for (WeightFormat format :
       {WeightFormat::q8_0, WeightFormat::q4_k, WeightFormat::q6_k, WeightFormat::q5_0, WeightFormat::bf16,
        WeightFormat::q4_0, WeightFormat::q4_1, WeightFormat::iq4_xs, WeightFormat::mxfp4, WeightFormat::nvfp4,
        WeightFormat::q5_k, WeightFormat::q3_k, WeightFormat::q2_k}) {
    for (const auto& [n, k] :
         few<std::pair<int64_t, int64_t>>({{130, 12288}, {9001, 256}}, {{130, 3072}, {2001, 256}})) {
      const Operand w(format, n, k, random, workspace.device.context());
      for (const auto& entry : linear_table().entries()) {
        for (int64_t m : {1, 4, 8, 11, 33}) {
          if (!can_run(workspace, entry.name, w, m)) continue;
          Call call(m, {&w}, {}, random);
          CAPTURE(info(format).name);
          CAPTURE(entry.name);
          CAPTURE(n);
          CAPTURE(m);
          CHECK(run_and_check(workspace, call, entry.name, 1) == "");
        }
      }
    }
  }
}

TEST_CASE("norm, chosen rows, bias, residual, activation") {
  Random random(3);
  Workspace workspace;
  for (const FormatInfo& format : all_formats()) {
    // Rows of whole strips (1024) and others take different ways through the GEMVs.
    const Operand a(format.format, 37, 768, random, workspace.device.context());
    const Operand b(format.format, 37, 768, random, workspace.device.context());
    const Operand whole_a(format.format, 37, 2048, random, workspace.device.context());
    const Operand whole_b(format.format, 37, 2048, random, workspace.device.context());
    for (const auto& entry : linear_table().entries()) {
      for (int64_t m : few({1, 2, 3, 8, 40, 100}, {1, 3, 40})) {
        if (!can_run(workspace, entry.name, a, m)) continue;
        const Options all = {.norm = true, .rows = true, .bias = true, .accumulate = true},
                      gated = {
                          .norm = true, .bias = true, .gated = true, .pdl = true, .activation = Activation::gelu_tanh};
        for (const Options& options : few({Options{.norm = true}, Options{.rows = true}, Options{.bias = true},
                                           Options{.accumulate = true}, Options{.gated = true}, all, gated},
                                          {all, gated})) {
          for (const auto& [first, second] : {std::pair{&a, &b}, {&whole_a, &whole_b}}) {
            Call call(m, options.gated ? std::vector{first, second} : std::vector{first}, options, random);
            CAPTURE(format.name);
            CAPTURE(entry.name);
            CAPTURE(m);
            CAPTURE(first->host.view.cols);
            CAPTURE(options.norm);
            CAPTURE(options.rows);
            CAPTURE(options.bias);
            CAPTURE(options.accumulate);
            CAPTURE(options.gated);
            CHECK(run_and_check(workspace, call, entry.name, options.gated ? 2 : 1) == "");
          }
        }
      }
    }
  }
}

TEST_CASE("three outputs, of one format and of several, as the table chooses") {
  Random random(4);
  Workspace workspace;
  const auto& with = workspace.device.context();
  using F = WeightFormat;
  for (const auto& [q, k, v] : {std::tuple{F::q4_k, F::q4_k, F::q6_k},
                                {F::q4_k, F::q4_k, F::q4_k},
                                {F::q8_0, F::f16, F::q8_0},
                                {F::bf16, F::bf16, F::bf16},
                                {F::q6_k, F::q5_0, F::q4_1},
                                {F::iq4_xs, F::iq4_xs, F::q5_k},
                                {F::q4_0, F::iq4_nl, F::q4_0},
                                {F::q5_k, F::q5_k, F::q6_k},
                                {F::q6_k, F::q5_k, F::q4_k},
                                {F::q3_k, F::q3_k, F::q4_k},
                                {F::mxfp4, F::nvfp4, F::mxfp4}}) {
    const Operand wq(q, 67, 512, random, with), wk(k, 21, 512, random, with), wv(v, 21, 512, random, with);
    for (int64_t m : {1, 3, 8, 40}) {
      Call call(m, {&wq, &wk, &wv}, {.norm = true, .bias = true, .pdl = m == 1}, random);
      std::vector<std::vector<float>> y;
      call.run(workspace, {}, y);
      std::vector<Arithmetic> arithmetic;
      for (F format : {q, k, v}) arithmetic.push_back(chosen_arithmetic(workspace, format, m, 67, 512));
      CAPTURE(info(q).name);
      CAPTURE(info(v).name);
      CAPTURE(m);
      CHECK(call.check(y, arithmetic) == "");
    }
  }
}

TEST_CASE(
    "outputs of two formats are one launch of a GEMV, in any order and with fewer rows than the card has blocks") {
  Random random(14);
  Workspace workspace;
  const auto& with = workspace.device.context();
  using F = WeightFormat;
  for (const auto& [q, k, v] : {std::tuple{F::q4_k, F::q4_k, F::q6_k},
                                {F::q6_k, F::q4_k, F::q4_k},
                                {F::q4_k, F::q6_k, F::q4_k},
                                {F::q6_k, F::q6_k, F::q4_k},
                                {F::q5_k, F::q5_k, F::q6_k},
                                {F::q6_k, F::q5_k, F::q5_k},
                                {F::q3_k, F::q3_k, F::q4_k},
                                {F::q2_k, F::q2_k, F::q4_k},
                                {F::q5_0, F::q5_0, F::q8_0},
                                {F::q8_0, F::q5_0, F::q8_0}}) {
    const bool is_rare = q == F::q3_k || q == F::q2_k || k == F::q5_0;  // more launches from 2 tokens on
    for (int64_t cols : {256, 1280, 2048}) {
      const Operand wq(q, 531, cols, random, with), wk(k, 1, cols, random, with), wv(v, 67, cols, random, with);
      for (int64_t m : {1, 2, 3, 8}) {
        workspace.device.launches.clear();
        Call call(m, {&wq, &wk, &wv}, {.norm = true, .bias = true, .pdl = true}, random);
        std::vector<std::vector<float>> y;
        call.run(workspace, "gemv_dp4a", y);
        CAPTURE(info(q).name);
        CAPTURE(info(v).name);
        CAPTURE(cols);
        CAPTURE(m);
        CHECK(call.check(y, std::vector(3, Arithmetic::int8)) == "");
        const int64_t launches = m == 1 || !is_rare ? 1 : q == k ? 2 : 3;
        CHECK(workspace.device.launches == std::map<std::string, int64_t>{{"gemv_dp4a", launches}});
      }
    }
  }
}

TEST_CASE("the 99 KiB of shared memory that smaller GPUs have: the same products") {
  Random random(16);
  Workspace workspace;
  const auto& with = workspace.device.context();
  using F = WeightFormat;
  int64_t ran = 0;
  for (const auto& [first, second] :
       {std::pair{F::q8_0, F::q8_0}, {F::q4_k, F::q4_k}, {F::q6_k, F::q6_k}, {F::q5_1, F::q5_1}, {F::q4_k, F::q6_k}}) {
    for (int64_t k : {2048, 2304, 8192}) {
      const Operand a(first, 37, k, random, with), b(second, 37, k, random, with);
      workspace.device.max_shared_bytes = 99 * 1024;
      for (int64_t m : {1, 2, 3, 8}) {
        if (!can_run(workspace, "gemv_dp4a", a, m)) continue;
        Call call(m, {&a, &b}, {.norm = true, .bias = true}, random);
        std::vector<std::vector<float>> y;
        call.run(workspace, "gemv_dp4a", y);
        CAPTURE(info(first).name);
        CAPTURE(info(second).name);
        CAPTURE(k);
        CAPTURE(m);
        CHECK(call.check(y, std::vector(2, Arithmetic::int8)) == "");
        ++ran;
      }
    }
  }
  CHECK(ran >= 5 * 3);  // single tokens at least
}

TEST_CASE("more rows a block than their sums have room for: more blocks") {
  Random random(15);
  Workspace workspace;
  const Operand w(WeightFormat::q8_0, 70001, 64, random, workspace.device.context());
  const Operand longer(WeightFormat::q8_0, 170001, 256, random, workspace.device.context());
  const Operand rows(WeightFormat::bf16, 70001, 16, random, workspace.device.context());
  for (int64_t m : few({1, 8}, {8})) {
    Call call(m, {&w}, {}, random), call_long(m, {&longer}, {}, random), call_rows(m, {&rows}, {}, random);
    CHECK(run_and_check(workspace, call, "gemv_dp4a", 1) == "");
    if (m > 1) CHECK(run_and_check(workspace, call_long, "gemv_mma", 1) == "");
    CHECK(run_and_check(workspace, call_rows, "gemv_rows", 1) == "");
  }
}

TEST_CASE("a gate and an up of different formats") {
  Random random(5);
  Workspace workspace;
  const auto& with = workspace.device.context();
  const Operand gate(WeightFormat::q4_k, 50, 512, random, with), up(WeightFormat::q6_k, 50, 512, random, with);
  for (int64_t m : {1, 8, 40}) {
    Call call(m, {&gate, &up}, {.norm = true, .gated = true}, random);
    std::vector<std::vector<float>> y;
    call.run(workspace, {}, y);
    CAPTURE(m);
    CHECK(call.check(y, {Arithmetic::bf16, Arithmetic::bf16}) == "");
  }
}

TEST_CASE("a weight's own scale multiplies it") {
  Random random(6);
  Workspace workspace;
  const Operand w(WeightFormat::nvfp4, 37, 512, random, workspace.device.context(), 0.37f);
  for (const auto& entry : linear_table().entries()) {
    for (int64_t m : {1, 5, 16}) {
      if (!can_run(workspace, entry.name, w, m)) continue;
      Call call(m, {&w}, {.bias = true}, random);
      CAPTURE(entry.name);
      CAPTURE(m);
      CHECK(run_and_check(workspace, call, entry.name, 1) == "");
    }
  }
}

TEST_CASE("scales that are not finite spoil their own rows alone") {
  Random random(16);
  Workspace workspace;
  for (WeightFormat format :
       {WeightFormat::q4_0, WeightFormat::q4_1, WeightFormat::iq4_nl, WeightFormat::iq4_xs, WeightFormat::q5_k,
        WeightFormat::q5_0, WeightFormat::q5_1, WeightFormat::q3_k, WeightFormat::q2_k}) {
    const int64_t n = 37, k = 1280;
    WeightMatrix host(format, n, k, random);
    const int64_t row = row_bytes(format, k);
    for (int64_t r : {3, 36}) {  // d of the row's second block
      const uint16_t bad = r == 3 ? 0x7c00 : 0x7e00;
      std::memcpy(&host.bytes[r * row + info(format).block_bytes + f16_fields(format)[0]], &bad, 2);
    }
    const PackedMatrix w(host, workspace.device.context());
    for (int64_t m : {1, 2, 5, 8, 40}) {
      const DeviceArray<float> x(random.outlier_heavy(m, k)), y(std::vector<float>(m * n, 0));
      for (const auto& entry : linear_table().entries()) {
        const LinearProblem problem{LinearRole::qkv, format, m, n, k, workspace.device.max_shared_bytes, {}};
        bool runs = false;
        for (const Verdict& verdict : linear_table().explain(problem))
          if (verdict.name == entry.name) runs = !verdict.reason;
        if (!runs) continue;
        const std::vector<LinearOutput> outputs = {{w.view(), nullptr, {y.data(), DType::f32, m, n, n}}};
        run_linear(workspace.context(), {.x = {x.data(), DType::f32, m, k, k}, .outputs = outputs}, entry.name);
        int64_t wrong = 0;
        const std::vector<float> found = y.download();
        for (int64_t t = 0; t < m; ++t)
          for (int64_t r = 0; r < n; ++r) wrong += std::isfinite(found[t * n + r]) == (r == 3 || r == 36);
        CAPTURE(info(format).name);
        CAPTURE(entry.name);
        CAPTURE(m);
        CHECK(wrong == 0);
      }
    }
  }
}

TEST_CASE("what rounding the activations costs against exact ones") {
  Random random(7);
  Workspace workspace;
  for (const FormatInfo& format : all_formats()) {
    const Operand w(format.format, 64, 2048, random, workspace.device.context());
    for (int64_t m : {4, 16}) {
      Call call(m, {&w}, {.norm = true}, random);
      std::vector<std::vector<float>> y;
      call.run(workspace, {}, y);
      const Arithmetic arithmetic = chosen_arithmetic(workspace, format.format, m, 64, 2048);
      const double allowed = arithmetic == Arithmetic::bf16 ? 6e-3 : arithmetic == Arithmetic::exact ? 1e-5 : 2.5e-2;
      CAPTURE(format.name);
      CAPTURE(m);
      CHECK(call.distance_to_reference(y) < allowed);
    }
  }
}

TEST_CASE("results repeat bit for bit, and tokens of a batch do not touch each other") {
  Random random(8);
  Workspace workspace;
  for (WeightFormat format :
       {WeightFormat::q4_k, WeightFormat::q8_0, WeightFormat::f16, WeightFormat::q4_0, WeightFormat::iq4_xs}) {
    const Operand w(format, few(3001, 601), 1024, random, workspace.device.context());
    for (int64_t m : {1, 7, 40, 128}) {
      Call call(m, {&w}, {.norm = true, .pdl = true}, random);
      std::vector<std::vector<float>> first, again;
      call.run(workspace, {}, first);
      for (int i = 0; i < few(5, 1); ++i) {
        call.run(workspace, {}, again);
        CHECK(same_bits(std::span<const float>(first[0]).first(few(3001, 601)),
                        std::span<const float>(again[0]).first(few(3001, 601))));
      }
    }
  }
}

TEST_CASE("a NaN or infinity in one token's activations shows in all its results and nowhere else") {
  Random random(9);
  Workspace workspace;
  for (WeightFormat format :
       {WeightFormat::q8_0, WeightFormat::q4_k, WeightFormat::q6_k, WeightFormat::q5_1, WeightFormat::f16,
        WeightFormat::q4_0, WeightFormat::q4_1, WeightFormat::iq4_xs, WeightFormat::mxfp4, WeightFormat::nvfp4,
        WeightFormat::q5_k, WeightFormat::q5_0, WeightFormat::q3_k, WeightFormat::q2_k}) {
    const Operand w(format, 20, 512, random, workspace.device.context());
    for (float bad : {kNan, INFINITY, -INFINITY}) {
      for (int64_t m : {1, 3, 9}) {
        Call call(m, {&w}, {}, random);
        call.spoil(m - 1, 77, bad);
        std::vector<std::vector<float>> y;
        call.run(workspace, {}, y);
        int64_t wrong = 0;
        for (int64_t t = 0; t < m; ++t)
          for (int64_t r = 0; r < 20; ++r) wrong += std::isfinite(y[0][t * 25 + r]) == (t == m - 1);
        CAPTURE(info(format).name);
        CAPTURE(bad);
        CAPTURE(m);
        CHECK(wrong == 0);
      }
    }
  }
}

namespace {

/// One linear through the GEMM of prefills; y as fp32 whatever its type, rows of all outputs side by side.
struct Prefill {
  Workspace& workspace;
  std::vector<const Operand*> weights;
  int64_t m;
  bool bias = false, gated = false, accumulate = false;
  const Fp8Weights* with_copies = nullptr;
  bool f16_sums = false;
  LinearSwitches switches = {};
  std::string_view candidate = "dequant_gemm_bf16";
  const Bf16Weights* bf16_copies = nullptr;

  int64_t width() const {
    int64_t n = 0;
    for (const Operand* w : weights) n += gated && n > 0 ? 0 : w->host.view.rows;
    return n;
  }
  std::vector<float> run(const void* x, DType x_type, DType y_type) const {
    const int64_t k = weights[0]->host.view.cols, stride = width();
    const bool bf16 = y_type == DType::bf16;
    const DeviceArray<float> wide(std::vector<float>(bf16 ? 0 : m * stride, accumulate ? 0.5f : kNan));
    const DeviceArray<uint16_t> narrow(std::vector<uint16_t>(bf16 ? m * stride : 0, 0x7fc0));
    std::vector<std::unique_ptr<DeviceArray<float>>> biases;
    std::vector<LinearOutput> outputs;
    int64_t column = 0;
    for (const Operand* w : weights) {
      biases.push_back(std::make_unique<DeviceArray<float>>(w->bias));
      TensorView y = {bf16 ? static_cast<void*>(narrow.data()) : wide.data() + column, y_type, m, w->host.view.rows,
                      stride};
      if (gated && column > 0) y = {};
      outputs.push_back({w->device.view(), bias ? biases.back()->data() : nullptr, y});
      column += w->host.view.rows;
    }
    LinearContext context = workspace.context(true);
    context.fp8 = with_copies;
    context.bf16 = bf16_copies;
    context.switches = switches;
    context.switches.f16_sums = f16_sums;
    run_linear(
        context,
        {.x = {const_cast<void*>(x), x_type, m, k, k}, .outputs = outputs, .accumulate = accumulate, .gated = gated},
        with_copies ? "cublaslt_fp8"
        : f16_sums  ? "dequant_gemm_f16"
                    : candidate);
    if (!bf16) return wide.download();
    std::vector<float> values;
    for (uint16_t bits : narrow.download()) values.push_back(bf16_to_f32(bits));
    return values;
  }
};

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) error += std::pow(double(a[i]) - b[i], 2), norm += std::pow(double(b[i]), 2);
  return a.size() == b.size() && norm > 0 ? std::sqrt(error / norm) : INFINITY;
}

/// fp32 values that bf16 holds, and the same as bf16.
std::pair<std::vector<float>, std::vector<uint16_t>> bf16_values(Random& random, int64_t rows, int64_t cols) {
  std::vector<float> wide = random.outlier_heavy(rows, cols);
  std::vector<uint16_t> narrow;
  for (float& x : wide) narrow.push_back(f32_to_bf16(x)), x = bf16_to_f32(narrow.back());
  return {wide, narrow};
}

}  // namespace

TEST_CASE("a prefill takes bf16 rows as they are, and gives gated results in bf16") {
  Random random(10);
  Workspace workspace;
  const int64_t m = 40, k = 512, n = 136;
  const auto [wide, narrow] = bf16_values(random, m, k);
  const DeviceArray<float> x(wide);
  const DeviceArray<uint16_t> x_bf16(narrow);
  for (WeightFormat format : {WeightFormat::q8_0, WeightFormat::q4_k, WeightFormat::bf16, WeightFormat::f16}) {
    const Operand gate(format, n, k, random, workspace.device.context()),
        up(format, n, k, random, workspace.device.context());
    CAPTURE(info(format).name);
    const Prefill plain{workspace, {&gate}, m, true};
    CHECK(same_bits(plain.run(x_bf16.data(), DType::bf16, DType::f32), plain.run(x.data(), DType::f32, DType::f32)));

    const Prefill gated{workspace, {&gate, &up}, m, true, true};
    const std::vector<float> g = plain.run(x.data(), DType::f32, DType::f32),
                             u = Prefill{workspace, {&up}, m, true}.run(x.data(), DType::f32, DType::f32),
                             y = gated.run(x_bf16.data(), DType::bf16, DType::bf16);
    int64_t wrong = 0;
    for (size_t i = 0; i < y.size(); ++i) {
      // gate without its bias, up without its bias, and the result are rounded: 2^-9 each of what is rounded, twice
      // that where another order of the sums moves one over the middle.
      const double a = reference::activate(Activation::silu, g[i]),
                   bias = 1 + std::fabs(gate.bias[i % n]) + std::fabs(up.bias[i % n]);
      const double allowed = 0x1p-8 * (1.13 * (std::fabs(g[i]) + bias) * std::fabs(u[i]) +
                                       std::fabs(a) * (std::fabs(u[i]) + bias) + std::fabs(a * u[i]));
      wrong += !(std::fabs(y[i] - a * u[i]) <= allowed);
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("outputs side by side are one product, in slices across their borders too") {
  Random random(11);
  for (int64_t elements : {int64_t{4} << 20, int64_t{130} * 512}) {
    Workspace workspace(elements);
    const auto& with = workspace.device.context();
    const int64_t m = 33, k = 512;
    const DeviceArray<float> x(bf16_values(random, m, k).first);
    using F = WeightFormat;
    for (const auto& [fq, fk, fv] : {std::tuple{F::q4_k, F::q4_k, F::q6_k},
                                     {F::q8_0, F::q8_0, F::q8_0},
                                     {F::bf16, F::bf16, F::bf16},
                                     {F::bf16, F::q8_0, F::f16}}) {
      const Operand wq(fq, 256, k, random, with), wk(fk, 64, k, random, with), wv(fv, 64, k, random, with);
      for (bool accumulate : {false, true}) {
        const std::vector<float> y =
            Prefill{workspace, {&wq, &wk, &wv}, m, true, false, accumulate}.run(x.data(), DType::f32, DType::f32);
        int64_t column = 0;
        for (const Operand* w : {&wq, &wk, &wv}) {
          const int64_t n = w->host.view.rows;
          const std::vector<float> alone =
              Prefill{workspace, {w}, m, true, false, accumulate}.run(x.data(), DType::f32, DType::f32);
          std::vector<float> part;
          for (int64_t t = 0; t < m; ++t)
            part.insert(part.end(), y.begin() + t * 384 + column, y.begin() + t * 384 + column + n);
          CAPTURE(info(w->host.view.format).name);
          CAPTURE(elements);
          CAPTURE(accumulate);
          CHECK(distance(part, alone) < 1e-6);
          column += n;
        }
      }
    }
  }
}

TEST_CASE("products from bf16 copies are those of the weights expanded for the step") {
  Random random(21);
  Workspace workspace;
  const int64_t k = 512;
  using F = WeightFormat;
  for (const auto& [fq, fk, fv] :
       {std::tuple{F::q8_0, F::q8_0, F::q8_0}, {F::q4_k, F::q4_k, F::q6_k}, {F::f16, F::q8_0, F::f32}}) {
    const auto& with = workspace.device.context();
    const Operand wq(fq, 256, k, random, with), wk(fk, 72, k, random, with), wv(fv, 72, k, random, with);
    std::vector<std::unique_ptr<DeviceMemory>> memory;
    uint64_t taken = 0;
    const auto allocate = [&](uint64_t bytes) {
      taken += bytes;
      return memory.emplace_back(std::make_unique<DeviceMemory>(bytes))->data();
    };
    // As a linear's outputs, side by side; and each by itself.
    Bf16Weights joined, apart;
    const WeightView views[] = {wq.device.view(), wk.device.view(), wv.device.view()};
    joined.add(views, allocate, with);
    CHECK(taken == 2 * 400 * k);
    for (const WeightView& view : views) apart.add({&view, 1}, allocate, with);
    CHECK(joined.find(views[1]) == joined.find(views[0]) + 256 * k);
    for (int64_t m : {1, 37, 200}) {
      const DeviceArray<float> x(bf16_values(random, m, k).first);
      for (bool accumulate : {false, true}) {
        CAPTURE(m);
        CAPTURE(accumulate);
        CAPTURE(info(fv).name);
        Prefill each{workspace, {&wq, &wk, &wv}, m, true, false, accumulate};
        const std::vector<float> expected = each.run(x.data(), DType::f32, DType::f32);
        each.candidate = "cublaslt_bf16";
        for (const Bf16Weights* copies : {&joined, &apart}) {
          each.bf16_copies = copies;
          CHECK(distance(each.run(x.data(), DType::f32, DType::f32), expected) < 1e-6);
        }
      }
    }
  }
}

TEST_CASE("bf16 copies: gate and up, and what refuses in words") {
  Random random(22);
  Workspace workspace;
  const int64_t m = 40, k = 512, n = 136;
  const auto& with = workspace.device.context();
  const Operand gate(WeightFormat::q8_0, n, k, random, with), up(WeightFormat::q6_k, n, k, random, with),
      half(WeightFormat::bf16, n, k, random, with);
  const DeviceMemory memory(2 * 2 * n * k);
  Bf16Weights copies;
  const WeightView views[] = {gate.device.view(), up.device.view()};
  copies.add(views, [&](uint64_t) { return memory.data(); }, with);
  const DeviceArray<float> x(bf16_values(random, m, k).first);
  for (DType y : {DType::f32, DType::bf16}) {
    Prefill gated{workspace, {&gate, &up}, m, true, true};
    const std::vector<float> expected = gated.run(x.data(), DType::f32, y);
    gated.bf16_copies = &copies, gated.candidate = "cublaslt_bf16";
    CHECK(distance(gated.run(x.data(), DType::f32, y), expected) < (y == DType::f32 ? 1e-6 : 1e-3));
  }
  // A part without a copy: the whole linear goes another way, and is refused where none is allowed.
  Prefill mixed{workspace, {&gate, &half}, m, true, true};
  mixed.bf16_copies = &copies;
  CHECK(mixed.run(x.data(), DType::f32, DType::f32).size() == static_cast<size_t>(m * n));
  mixed.candidate = "cublaslt_bf16";
  CHECK_THROWS_AS(mixed.run(x.data(), DType::f32, DType::f32), Error);

  LinearProblem problem{LinearRole::down, WeightFormat::q8_0, 512, 64, 256, workspace.device.max_shared_bytes, {}};
  CHECK(std::string(reject_bf16_gemm(problem)) == "no bf16 copy of the weight is kept");
  problem.bf16_copy = true;
  CHECK(reject_bf16_gemm(problem) == nullptr);
  problem.scaled = true;
  CHECK(std::string(reject_bf16_gemm(problem)) == "the weight has a scale of its own");
  CHECK(std::string(Bf16Weights::reject(LinearRole::lm_head, WeightFormat::q8_0, 512)) ==
        "the head is no prefill product");
  CHECK(std::string(Bf16Weights::reject(LinearRole::o, WeightFormat::bf16, 512)) == "the weight is bf16 itself");
  CHECK(std::string(Bf16Weights::reject(LinearRole::o, WeightFormat::q8_0, 48)) == "k is not a multiple of 32");
  CHECK(Bf16Weights::reject(LinearRole::o, WeightFormat::q8_0, 512) == nullptr);
}

TEST_CASE("GEMVs refuse bf16 activations in words") {
  const Workspace workspace;
  for (WeightFormat format : {WeightFormat::q8_0, WeightFormat::f16}) {
    LinearProblem problem{LinearRole::down, format, 1, 64, 256, workspace.device.max_shared_bytes, {}};
    problem.bf16_activations = true;
    for (const Verdict& verdict : linear_table().explain(problem)) {
      CAPTURE(verdict.name);
      CHECK((verdict.reason == nullptr) == (verdict.name == "dequant_gemm_bf16"));
    }
  }
}

namespace {

/// The e4m3 number nearest to x, ties to even; |x| is at most 448.
double round_e4m3(double x) {
  if (x == 0) return 0;
  const int exponent = std::max(-6, std::ilogb(x));
  const double step = std::ldexp(1.0, exponent - 3);
  return std::nearbyint(x / step) * step;
}

/// Rows as their e4m3 codes times the row's scale; the same fp32 operations as on the device.
std::vector<double> through_e4m3(const std::vector<float>& values, int64_t cols) {
  std::vector<double> out;
  for (size_t row = 0; row < values.size(); row += static_cast<size_t>(cols)) {
    float amax = 0;
    for (size_t i = row; i < row + static_cast<size_t>(cols); ++i) amax = std::max(amax, std::fabs(values[i]));
    const float inverse = amax > 0 ? 448 / amax : 0;
    const double scale = double{amax} / 448;
    for (size_t i = row; i < row + static_cast<size_t>(cols); ++i)
      out.push_back(round_e4m3(values[i] * inverse) * scale);
  }
  return out;
}

}  // namespace

TEST_CASE("fp8: products of rows rounded to e4m3 with a scale each, at any number of tokens") {
  Random random(12);
  Workspace workspace;
  const int64_t k = 512;
  for (WeightFormat format : {WeightFormat::q8_0, WeightFormat::q4_k, WeightFormat::bf16}) {
    const Operand q(format, 96, k, random, workspace.device.context()),
        v(format, 32, k, random, workspace.device.context());
    std::vector<std::unique_ptr<DeviceMemory>> memory;
    const auto allocate = [&](uint64_t bytes) {
      return memory.emplace_back(std::make_unique<DeviceMemory>(bytes))->data();
    };
    Fp8Weights copies;
    const WeightView views[] = {q.device.view(), v.device.view()};
    copies.add(views, allocate, workspace.context());
    for (int64_t m : {129, 150, 192}) {
      const std::vector<float> x = random.outlier_heavy(m, k);
      const DeviceArray<float> dx(x);
      const std::vector<float> y =
          Prefill{workspace, {&q, &v}, m, true, false, true, &copies}.run(dx.data(), DType::f32, DType::f32);
      const std::vector<double> h = through_e4m3(x, k);
      int64_t wrong = 0, column = 0;
      double error = 0, norm = 0;
      for (const Operand* weight : {&q, &v}) {
        std::vector<float> rounded = weight->host.values;
        for (float& w : rounded) w = bf16_to_f32(f32_to_bf16(w));
        const std::vector<double> w = through_e4m3(rounded, k);
        for (int64_t t = 0; t < m; ++t) {
          for (int64_t r = 0; r < weight->host.view.rows; ++r) {
            double sum = 0, magnitude = 0, exact = 0;
            for (int64_t c = 0; c < k; ++c) {
              const double p = h[t * k + c] * w[r * k + c];
              sum += p, magnitude += std::fabs(p);
              exact += double{x[t * k + c]} * weight->host.values[r * k + c];
            }
            const double found = y[t * 128 + column + r] - 0.5 - weight->bias[r];
            // The tensor cores add fp8 products with 13 fractional bits or so before they reach fp32; a scale of
            // another row would be off by some 5 % of the magnitude.
            wrong += !(std::fabs(found - sum) <= 2e-3 * magnitude + 1e-6);
            error += (found - exact) * (found - exact), norm += exact * exact;
          }
        }
        column += weight->host.view.rows;
      }
      CAPTURE(info(format).name);
      CAPTURE(m);
      CHECK(wrong == 0);
      const double distance = std::sqrt(error / norm);
      MESSAGE(info(format).name, ", ", m, " tokens: ", distance, " from exact operands");
      CHECK(distance < 6e-2);
      CHECK(distance > 1e-3);
    }
  }
}

TEST_CASE("fp8: gate and up through copies that lie side by side or apart") {
  Random random(13);
  Workspace workspace;
  const int64_t k = 512, n = 128, m = 140;
  const Operand gate(WeightFormat::q8_0, n, k, random, workspace.device.context()),
      up(WeightFormat::q8_0, n, k, random, workspace.device.context());
  std::vector<std::unique_ptr<DeviceMemory>> memory;
  const auto allocate = [&](uint64_t bytes) {
    return memory.emplace_back(std::make_unique<DeviceMemory>(bytes))->data();
  };
  Fp8Weights together, apart;
  const WeightView views[] = {gate.device.view(), up.device.view()};
  together.add(views, allocate, workspace.context());
  apart.add(std::span(views).first(1), allocate, workspace.context());
  apart.add(std::span(views).last(1), allocate, workspace.context());
  const auto [wide, narrow] = bf16_values(random, m, k);
  const DeviceArray<uint16_t> x(narrow);
  const auto run = [&](const Fp8Weights* copies) {
    return Prefill{workspace, {&gate, &up}, m, true, true, false, copies}.run(x.data(), DType::bf16, DType::bf16);
  };
  CHECK(distance(run(&together), run(&apart)) < 1e-3);
  CHECK(distance(run(&together), run(nullptr)) < 0.12);
}

TEST_CASE("fp8: what refuses, in words") {
  LinearProblem problem{LinearRole::down, WeightFormat::q8_0, 512, 64, 256, 0, {}};
  const auto reason = [](const LinearProblem& p) { return std::string(reject_fp8_gemm(p) ? reject_fp8_gemm(p) : ""); };
  CHECK(reason(problem) == "attention.fp8_prefill is not set");
  problem.fp8 = true;
  CHECK(reason(problem) == "");
  problem.m = 128;
  CHECK(reason(problem) == "at most 128 tokens");
  problem.m = 512, problem.k = 264;
  CHECK(reason(problem) == "k is not a multiple of 16");
  problem.k = 256, problem.scaled = true;
  CHECK(reason(problem) == "the weight has a scale of its own");
  problem.role = LinearRole::lm_head;
  CHECK(reason(problem) == "the head is no prefill product");
}

TEST_CASE("f16 sums: near the others where numbers are small, infinite where they are not") {
  Random random(14);
  Workspace workspace(int64_t{130} * 512);
  const int64_t k = 512, m = 150;
  const auto [wide, narrow] = bf16_values(random, m, k);
  const DeviceArray<float> x(wide);
  const DeviceArray<uint16_t> x_bf16(narrow);
  for (WeightFormat format : {WeightFormat::q8_0, WeightFormat::q4_k, WeightFormat::bf16, WeightFormat::f32}) {
    const Operand q(format, 136, k, random, workspace.device.context()),
        v(format, 37, k, random, workspace.device.context());
    CAPTURE(info(format).name);
    for (bool accumulate : {false, true}) {
      Prefill linear{workspace, {&q, &v}, m, true, false, accumulate};
      const std::vector<float> fp32 = linear.run(x.data(), DType::f32, DType::f32);
      linear.f16_sums = true;
      const std::vector<float> f16 = linear.run(x_bf16.data(), DType::bf16, DType::f32);
      CHECK(same_bits(f16, linear.run(x.data(), DType::f32, DType::f32)));
      CHECK(distance(f16, fp32) < 1e-2);
      CHECK(distance(f16, fp32) > 1e-6);
    }
    const Operand up(format, 136, k, random, workspace.device.context());
    Prefill gated{workspace, {&q, &up}, m, true, true};
    for (DType type : {DType::f32, DType::bf16}) {
      gated.f16_sums = false;
      const std::vector<float> fp32 = gated.run(x.data(), DType::f32, type);
      gated.f16_sums = true;
      CHECK(distance(gated.run(x.data(), DType::f32, type), fp32) < 2e-2);
    }
  }
  const Operand large(WeightFormat::f32, 16, k, random, workspace.device.context());
  std::vector<float> huge(m * k, 0.0f);
  std::fill_n(huge.begin(), k, 60000.0f);
  for (int64_t c = 0; c < k; ++c) huge[k + c] = 1.0f;
  const DeviceArray<float> dx(huge);
  const std::vector<float> y =
      Prefill{workspace, {&large}, m, false, false, false, nullptr, true}.run(dx.data(), DType::f32, DType::f32);
  int64_t infinite = 0;
  for (int64_t r = 0; r < 16; ++r) infinite += !std::isfinite(y[r]);
  for (int64_t i = 16; i < m * 16; ++i) CHECK(std::isfinite(y[i]));
  MESSAGE(infinite, " of 16 sums beyond f16");
  CHECK(infinite > 0);
}

TEST_CASE("deterministic products of a shape whose sums the library likes to split: not split, and equal to the bit") {
  if (few_shapes()) return;  // a product of the library
  Random random(15);
  TestDevice device;
  const int64_t m = 128, n = 4096, k = 12288;
  std::vector<uint16_t> a, w;
  for (float x : random.normals(m * k)) a.push_back(f32_to_bf16(x));
  for (float x : random.normals(n * k)) w.push_back(f32_to_bf16(x));
  const DeviceArray<uint16_t> da(a), dw(w);
  const DeviceArray<float> y(std::vector<float>(m * n, kNan));
  const DeviceMemory memory(size_t{32} << 20);
  const TempDir dir;
  const auto run = [&](bool deterministic) {
    CublasLt library;
    library.open(memory.data(), memory.bytes(), {.deterministic = deterministic, .log = true});
    const GemmCall call{.a = da.data(), .w = dw.data(), .y = y.data(), .m = m, .n = n, .k = k, .y_stride = n};
    const std::string text = stderr_of(dir, [&] { library.gemm(call, nullptr); });
    const std::vector<float> first = y.download();
    for (int i = 0; deterministic && i < 20; ++i) {
      library.gemm(call, nullptr);
      CHECK(same_bits(first, y.download()));
    }
    return text.substr(0, text.find(";"));
  };
  const std::string free = run(false), fixed = run(true);
  MESSAGE(free, "\n", fixed);
  CHECK(free.find("imp: gemm m=128 n=4096 k=12288 bf16 to f32: id=") != std::string::npos);
  CHECK(fixed.find(" splitk=1 reduction=0 ") != std::string::npos);
}

TEST_CASE("Q4_K and Q6_K outputs are one launch of the GEMV of tensor cores, Q8_0 and Q4_K are two") {
  Random random(17);
  Workspace workspace;
  const auto& with = workspace.device.context();
  using F = WeightFormat;
  for (const auto& [q, k, v, launches] : {std::tuple{F::q4_k, F::q4_k, F::q6_k, 1},
                                          {F::q6_k, F::q4_k, F::q4_k, 1},
                                          {F::q4_k, F::q6_k, F::q4_k, 1},
                                          {F::q8_0, F::q8_0, F::q4_k, 2}}) {
    for (int64_t cols : {256, 1280, 2048}) {
      const Operand wq(q, 531, cols, random, with), wk(k, 1, cols, random, with), wv(v, 67, cols, random, with);
      for (int64_t m : {3, 12}) {
        workspace.device.launches.clear();
        Call call(m, {&wq, &wk, &wv}, {.norm = true, .bias = true, .pdl = true}, random);
        std::vector<std::vector<float>> y;
        call.run(workspace, "gemv_mma", y);
        CAPTURE(info(q).name);
        CAPTURE(info(v).name);
        CAPTURE(cols);
        CAPTURE(m);
        CHECK(call.check(y, std::vector(3, Arithmetic::int8)) == "");
        CHECK(workspace.device.launches ==
              std::map<std::string, int64_t>{{"gemv_mma", launches}, {"quantize_tokens", launches}});
      }
    }
  }
}

TEST_CASE("the GEMV of tensor cores at shapes that fill nothing and with few SMs or many") {
  Random random(16);
  Workspace workspace;
  const auto& with = workspace.device.context();
  for (WeightFormat format : {WeightFormat::q8_0, WeightFormat::q4_k, WeightFormat::q6_k}) {
    for (int64_t k : few({256, 768, 2560, 4096}, {768})) {
      const Operand a(format, 145, k, random, with), b(format, 145, k, random, with), c(format, 33, k, random, with);
      for (int64_t m : few({1, 2, 8, 9, 16}, {3, 16})) {
        for (const Options& options :
             {Options{.pdl = true}, Options{.norm = true, .rows = true, .bias = true, .accumulate = true},
              Options{.norm = true, .bias = true, .gated = true, .pdl = true}}) {
          const std::vector<const Operand*> weights = options.gated ? std::vector{&a, &b} : std::vector{&a, &c};
          Call call(m, weights, options, random);
          for (int sms : {132, 5}) {  // few: a block has more groups of rows than warps
            std::vector<std::vector<float>> y, again;
            const auto run = [&](std::vector<std::vector<float>>& to) {
              call.run_with(workspace, to, [&](LinearContext context, const LinearArgs& args) {
                context.launch.num_sms = sms;
                const PackedLayout layouts[] = {packed_layout_of(format), packed_layout_of(format)};
                gemv_mma(layouts, args, context.imma, context.launch);
              });
            };
            run(y);
            run(again);
            CAPTURE(info(format).name);
            CAPTURE(sms);
            CAPTURE(k);
            CAPTURE(m);
            CAPTURE(options.gated);
            CAPTURE(options.accumulate);
            CHECK(call.check(y, std::vector<Arithmetic>(weights.size(), Arithmetic::int8)) == "");
            for (size_t i = 0; i < y.size(); ++i) CHECK(same_bits(y[i], again[i]));
          }
        }
      }
    }
  }
}

TEST_CASE("every tile of the int8 tensor-core product, at shapes that fill none of them") {
  Random random(10);
  Workspace workspace;
  const auto& with = workspace.device.context();
  for (WeightFormat format : {WeightFormat::q8_0, WeightFormat::q4_k, WeightFormat::q6_k, WeightFormat::q5_k,
                              WeightFormat::q5_0, WeightFormat::q5_1, WeightFormat::q3_k, WeightFormat::q2_k}) {
    const int64_t unit = info(format).block_elements;
    std::set<int> ran;
    const int64_t odd = unit == 32 ? 1120 : 1280;
    for (int64_t k : few({unit, odd, int64_t{2304}}, {odd})) {
      const Operand a(format, 145, k, random, with), b(format, 145, k, random, with), c(format, 33, k, random, with);
      for (int64_t m : few({1, 7, 31, 130}, {70})) {
        for (const Options& options :
             {Options{.pdl = true}, Options{.norm = true, .rows = true, .bias = true, .accumulate = true},
              Options{.norm = true, .bias = true, .gated = true, .pdl = true}}) {
          const std::vector<const Operand*> weights = options.gated ? std::vector{&a, &b} : std::vector{&a, &c};
          Call call(m, weights, options, random);
          for (int tile = 0; tile < kImmaTiles; ++tile) {
            if (imma_reject_tile(tile, packed_layout_of(format), workspace.device.max_shared_bytes)) continue;
            for (int sms : {132, 3}) {  // few: blocks have several tiles; many: several blocks share one
              std::vector<std::vector<float>> y;
              call.run_with(workspace, y, [&](LinearContext context, const LinearArgs& args) {
                context.launch.num_sms = sms;
                gemm_imma_tile(tile, packed_layout_of(format), args, context.imma, context.launch);
              });
              CAPTURE(info(format).name);
              CAPTURE(tile);
              CAPTURE(sms);
              CAPTURE(k);
              CAPTURE(m);
              CAPTURE(options.gated);
              CAPTURE(options.accumulate);
              CHECK(call.check(y, std::vector<Arithmetic>(weights.size(), Arithmetic::int8)) == "");
              ran.insert(tile);
            }
          }
        }
      }
    }
    CHECK(ran.size() >= kImmaTiles - 1);  // the widest may not fit
  }
}

TEST_CASE("the int8 tensor-core product takes bf16 rows and gives gated results in bf16") {
  Random random(11);
  Workspace workspace;
  const int64_t m = 40, k = 512, n = 136;
  const auto [wide, narrow] = bf16_values(random, m, k);
  const DeviceArray<float> x(wide);
  const DeviceArray<uint16_t> x_bf16(narrow);
  for (WeightFormat format : {WeightFormat::q8_0, WeightFormat::q4_k, WeightFormat::q6_k, WeightFormat::q5_1}) {
    const Operand gate(format, n, k, random, workspace.device.context()),
        up(format, n, k, random, workspace.device.context());
    CAPTURE(info(format).name);
    const Prefill plain{.workspace = workspace, .weights = {&gate}, .m = m, .bias = true, .candidate = "gemm_imma"};
    CHECK(same_bits(plain.run(x_bf16.data(), DType::bf16, DType::f32), plain.run(x.data(), DType::f32, DType::f32)));
    const Prefill gated{
        .workspace = workspace, .weights = {&gate, &up}, .m = m, .bias = true, .gated = true, .candidate = "gemm_imma"};
    std::vector<float> rounded = gated.run(x.data(), DType::f32, DType::f32);
    for (float& y : rounded) y = bf16_to_f32(f32_to_bf16(y));
    CHECK(same_bits(gated.run(x_bf16.data(), DType::bf16, DType::bf16), rounded));
  }
}

TEST_CASE("which tokens the GEMV of tensor cores takes, and which keys it heeds") {
  const Workspace workspace;
  const auto reason = [&](WeightFormat format, int64_t m, const LinearSwitches& switches,
                          LinearRole role = LinearRole::qkv, int64_t k = 4096) -> std::string {
    for (const Verdict& v :
         linear_table().explain({role, format, m, 512, k, workspace.device.max_shared_bytes, switches}))
      if (v.name == "gemv_mma") return v.chosen ? "chosen" : v.reason ? v.reason : "";
    return "not in the table";
  };
  using F = WeightFormat;
  for (F format : {F::q8_0, F::q4_k, F::q6_k}) CHECK(reason(format, 8, {}) == "chosen");
  CHECK(reason(F::q8_0, 2, {}) == "fewer than 3 tokens");
  CHECK(reason(F::q8_0, 17, {}) == "more than 16 tokens");
  CHECK(reason(F::q5_k, 8, {}) == "this layout has no gemv_mma kernel");
  CHECK(reason(F::bf16, 8, {}) == "weight is not a block format");
  CHECK(reason(F::q8_0, 8, {}, LinearRole::qkv, 4128) == "k is not a multiple of 256");
  CHECK(reason(F::q8_0, 16, {}, LinearRole::qkv, 32768) == "activations do not fit into shared memory");
  CHECK(reason(F::q4_k, 16, {.no_mmvq = true}) == "gemm.no_mmvq is set");
  CHECK(reason(F::q8_0, 16, {.no_mmvq_q8_0 = true}) == "gemm.no_mmvq_q8_0 is set");
  CHECK(reason(F::q4_k, 8, {.no_dp4a_gemv = true}) == "gemm.no_dp4a_gemv is set");
  CHECK(reason(F::q4_k, 9, {.no_dp4a_gemv = true}) == "chosen");
  CHECK(reason(F::q4_k, 9, {.no_dp4a_lm = true}, LinearRole::lm_head) == "gemm.no_dp4a_lm is set");
}

TEST_CASE("which tokens gemm_imma takes, and which keys it heeds") {
  const Workspace workspace;
  const auto reason = [&](WeightFormat format, int64_t m, const LinearSwitches& switches,
                          LinearRole role = LinearRole::qkv, int64_t k = 4096) -> std::string {
    for (const Verdict& v :
         linear_table().explain({role, format, m, 512, k, workspace.device.max_shared_bytes, switches}))
      if (v.name == "gemm_imma") return v.reason ? v.reason : "";
    return "not in the table";
  };
  using F = WeightFormat;
  CHECK(reason(F::q8_0, 8, {}) == "");
  CHECK(reason(F::q8_0, 128, {}) == "");
  CHECK(reason(F::q4_k, 64, {}) == "");
  CHECK(reason(F::q4_k, 128, {}) == reason(F::q5_k, 65, {}));
  CHECK(reason(F::q4_k, 128, {.q4k_imma_prefill = true}) == "");
  CHECK(reason(F::f16, 8, {}) == "weight is not a block format");
  CHECK(reason(F::q8_0, 2, {}) == "fewer than 3 tokens");
  CHECK(reason(F::q8_0, 65, {}, LinearRole::qkv, 2048) != "");
  CHECK(reason(F::q5_k, 64, {}) == "");
  CHECK(reason(F::q5_k, 65, {}) == reason(F::q8_0, 65, {}, LinearRole::qkv, 2048));
  CHECK(reason(F::q8_0, 129, {}) == "more than 128 tokens");
  CHECK(reason(F::q4_k, 129, {}) == "more than 128 tokens");
  CHECK(reason(F::q4_k, 129, {.q4k_imma_prefill = true}) == "");
  CHECK(reason(F::q6_k, 129, {.q4k_imma_prefill = true}) == "more than 128 tokens");
  CHECK(reason(F::q4_k, 257, {.q4k_imma_prefill = true}) == "more than 256 tokens");
  CHECK(reason(F::q8_0, 64, {.q8_imma = false}) == "gemm.q8_imma_enabled is off");
  CHECK(reason(F::q8_0, 63, {.q8_imma = false}) == "");
  CHECK(reason(F::q4_k, 64, {.q8_imma = false}) == "");
  CHECK(reason(F::q4_k, 16, {.no_mmvq = true}) == "gemm.no_mmvq is set");
  CHECK(reason(F::q8_0, 16, {.no_mmvq_q8_0 = true}) == "gemm.no_mmvq_q8_0 is set");
  CHECK(reason(F::q4_k, 16, {.no_mmvq_q8_0 = true}) == "");
  CHECK(reason(F::q4_k, 8, {.no_dp4a_gemv = true}) == "gemm.no_dp4a_gemv is set");
  CHECK(reason(F::q4_k, 9, {.no_dp4a_gemv = true}) == "");
  CHECK(reason(F::q4_k, 9, {.no_dp4a_lm = true}, LinearRole::lm_head) == "gemm.no_dp4a_lm is set");
}

TEST_CASE("gemm_wgmma: three outputs in several formats, gated and bf16, beside expanding first") {
  Random random(17);
  Workspace workspace;
  if (workspace.device.capability != 90) return;
  const auto& with = workspace.device.context();
  const int64_t m = 70, k = 512;
  const auto [wide, narrow] = bf16_values(random, m, k);
  const DeviceArray<float> x(wide);
  const DeviceArray<uint16_t> x_bf16(narrow);
  using F = WeightFormat;
  for (const auto& [fq, fk, fv] :
       {std::tuple{F::q4_k, F::q4_k, F::q6_k}, {F::q8_0, F::q8_0, F::q8_0}, {F::q6_k, F::q5_k, F::q4_k}}) {
    const Operand wq(fq, 264, k, random, with), wk(fk, 64, k, random, with), wv(fv, 67, k, random, with);
    for (bool accumulate : {false, true}) {
      Prefill prefill{
          .workspace = workspace, .weights = {&wq, &wk, &wv}, .m = m, .bias = true, .accumulate = accumulate};
      const std::vector<float> expected = prefill.run(x.data(), DType::f32, DType::f32);
      prefill.candidate = "gemm_wgmma";
      CHECK(distance(prefill.run(x_bf16.data(), DType::bf16, DType::f32), expected) < 1e-5);
      CHECK(same_bits(prefill.run(x.data(), DType::f32, DType::f32),
                      prefill.run(x_bf16.data(), DType::bf16, DType::f32)));
    }
  }
  const Operand gate(F::q4_k, 136, k, random, with), up(F::q4_k, 136, k, random, with);
  Prefill gated{.workspace = workspace, .weights = {&gate, &up}, .m = m, .gated = true, .candidate = "gemm_wgmma"};
  std::vector<float> rounded = gated.run(x.data(), DType::f32, DType::f32);
  for (float& y : rounded) y = bf16_to_f32(f32_to_bf16(y));
  CHECK(same_bits(gated.run(x_bf16.data(), DType::bf16, DType::bf16), rounded));
}

TEST_CASE("gemm.q4k_hmma_enabled: the numbers of expanding to bf16 first, at any number of tokens") {
  Random random(18);
  Workspace workspace;
  const auto& with = workspace.device.context();
  const int64_t k = 768, n = 328;
  const Operand q(WeightFormat::q4_k, n, k, random, with), up(WeightFormat::q4_k, n, k, random, with),
      v(WeightFormat::q6_k, 67, k, random, with);
  LinearSwitches on;
  on.q4k_hmma = true;
  for (int64_t m : {32, 33, 64, 100, 160, 257}) {
    const DeviceArray<float> x(bf16_values(random, m, k).first);
    for (const auto& weights : {std::vector<const Operand*>{&q}, {&q, &up}, {&q, &up, &v}}) {
      for (bool gated : {false, true}) {
        if (gated && weights.size() != 2) continue;
        Prefill prefill{.workspace = workspace, .weights = weights, .m = m, .bias = true, .gated = gated};
        const std::vector<float> expected = prefill.run(x.data(), DType::f32, DType::f32);
        prefill.switches = on, prefill.candidate = {};
        workspace.device.launches.clear();
        const std::vector<float> found = prefill.run(x.data(), DType::f32, DType::f32);
        CAPTURE(m);
        CAPTURE(weights.size());
        CAPTURE(gated);
        CHECK(workspace.device.launches["gemm_hmma_q4k"] == 1);
        // The activation's operands are rounded to bf16 on the other way, as v's are not expanded on this one.
        if (!gated && weights.size() < 3) CHECK(distance(found, expected) < 1e-5);
        CHECK(distance(found, expected) < (gated ? 5e-3 : weights.size() == 3 ? 2e-2 : 1e-3));
      }
    }
  }
}
