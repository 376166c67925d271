#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "reference/reference.h"
#include "support/linear_workspace.h"

namespace imp::test {

/// How a candidate sees its operands; the sums are fp32 everywhere.
enum class Arithmetic { exact, int8, bf16 };

inline Arithmetic arithmetic_of(std::string_view candidate) {
  if (candidate == "gemv_dp4a" || candidate == "gemv_mma" || candidate == "gemm_imma") return Arithmetic::int8;
  const bool bf16 = candidate == "dequant_gemm_bf16" || candidate == "gemm_hmma" || candidate == "gemm_wgmma";
  return bf16 ? Arithmetic::bf16 : Arithmetic::exact;
}

/// fp32 sums of k products err by less than 1e-5 of sum |w h|; formats with a minimum subtract two larger sums.
inline constexpr double kSums = 2e-5;
/// A norm computed in another order may move a value over the middle between two bf16 numbers: a step of 2^-7, but only
/// for a few of the k.
inline constexpr double kBf16Flip = 0x1p-8;

struct LinearOptions {
  bool norm = false, rows = false, bias = false, accumulate = false, gated = false, pdl = false;
  Activation activation = Activation::silu;
};

/// One linear on the device and what it should give.
class LinearCall {
 public:
  LinearCall(int64_t m, std::vector<const Operand*> weights, const LinearOptions& options, Random& random)
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

  void run(LinearWorkspace& workspace, std::string_view forced, std::vector<std::vector<float>>& y) {
    run_with(workspace, y, [&](const cuda::LinearContext& context, const LinearArgs& args) {
      cuda::run_linear(context, args, forced);
    });
  }
  /// By `linear(context, args)`.
  template <class Linear>
  void run_with(LinearWorkspace& workspace, std::vector<std::vector<float>>& y, const Linear& linear) {
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
  LinearOptions options_;
  std::vector<const Operand*> weights_;
  std::vector<float> x_, norm_;
  std::vector<int32_t> rows_;
  std::vector<std::vector<float>> y_before_;
  std::vector<Arithmetic> known_;  // what products_ are of
  std::vector<Products> products_;
};

inline std::string run_and_check(LinearWorkspace& workspace, LinearCall& call, std::string_view candidate,
                                 size_t outputs) {
  std::vector<std::vector<float>> y;
  call.run(workspace, candidate, y);
  return call.check(y, std::vector<Arithmetic>(outputs, arithmetic_of(candidate)));
}

inline cuda::LinearProblem problem_on(const LinearWorkspace& workspace, WeightFormat format, int64_t m, int64_t n,
                                      int64_t k) {
  return {.role = LinearRole::qkv,
          .format = format,
          .m = m,
          .n = n,
          .k = k,
          .max_shared_bytes = workspace.device.max_shared_bytes,
          .switches = {},
          .capability = workspace.device.capability};
}

inline bool can_run(const LinearWorkspace& workspace, std::string_view name, const Operand& w, int64_t m) {
  const WeightView& v = w.host.view;
  for (const Verdict& verdict : cuda::linear_table().explain(problem_on(workspace, v.format, m, v.rows, v.cols)))
    if (verdict.name == name) return !verdict.reason;
  return false;
}

/// The arithmetic of the candidate that the table takes.
inline Arithmetic chosen_arithmetic(const LinearWorkspace& workspace, WeightFormat format, int64_t m, int64_t n,
                                    int64_t k) {
  for (const Verdict& verdict : cuda::linear_table().explain(problem_on(workspace, format, m, n, k)))
    if (verdict.chosen) return arithmetic_of(verdict.name);
  return Arithmetic::exact;
}

}  // namespace imp::test
