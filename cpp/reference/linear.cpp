#include <algorithm>
#include <cmath>
#include <vector>

#include "quant/format.h"
#include "reference/reference.h"

namespace imp::reference {
namespace {

constexpr int64_t kSkipBlock = 32;

/// One row of h: x, normed where asked, with quiet 32-blocks zeroed where asked.
void make_input_row(const LinearArgs& args, int64_t t, std::vector<double>& h) {
  const int64_t k = args.x.cols;
  const float* x = args.x.row<float>(args.row_indices ? args.row_indices[t] : t);
  std::copy(x, x + k, h.begin());
  if (args.norm_weight) {
    double sum_sq = 0;
    for (double v : h) sum_sq += v * v;
    const double scale = 1.0 / std::sqrt(sum_sq / static_cast<double>(k) + args.norm_epsilon);
    for (int64_t c = 0; c < k; ++c) h[c] *= scale * args.norm_weight[c];
  }
  if (args.skip_threshold <= 0) return;
  for (int64_t begin = 0; begin < k; begin += kSkipBlock) {
    const int64_t end = std::min(k, begin + kSkipBlock);
    double amax = 0;
    for (int64_t c = begin; c < end; ++c) amax = std::max(amax, std::abs(h[c]));
    if (amax < args.skip_threshold) std::fill(h.begin() + begin, h.begin() + end, 0.0);
  }
}

/// One row of W, dequantized.
void load_weight_row(const WeightView& weight, int64_t row, std::vector<float>& w) {
  const int64_t bytes = row_bytes(weight.format, weight.cols);
  dequantize(weight.format, static_cast<const std::byte*>(weight.data) + row * bytes, w.data(), weight.cols);
}

double product(const LinearOutput& output, int64_t row, const double* h, const std::vector<float>& w) {
  double sum = 0;
  for (size_t c = 0; c < w.size(); ++c) sum += h[c] * w[c];
  return sum * output.weight.scale + (output.bias ? output.bias[row] : 0.0);
}

}  // namespace

double activate(Activation activation, double x) {
  switch (activation) {
    case Activation::silu: return x / (1.0 + std::exp(-x));
    case Activation::gelu_tanh: return 0.5 * x * (1.0 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
  }
  return x;
}

void linear(const LinearArgs& args) {
  const int64_t tokens = args.tokens(), k = args.x.cols;
  std::vector<double> h(tokens * k), row(k);
  for (int64_t t = 0; t < tokens; ++t) {
    make_input_row(args, t, row);
    std::copy(row.begin(), row.end(), h.begin() + t * k);
  }
  std::vector<float> w(k), up(k);
  // Weight rows outside, tokens inside: each row is dequantized once. h is complete first, so y may overlap x.
  for (size_t i = 0; i < (args.gated ? 1 : args.outputs.size()); ++i) {
    const LinearOutput& output = args.outputs[i];
    for (int64_t r = 0; r < output.weight.rows; ++r) {
      load_weight_row(output.weight, r, w);
      if (args.gated) load_weight_row(args.outputs[1].weight, r, up);
      for (int64_t t = 0; t < tokens; ++t) {
        double value = product(output, r, &h[t * k], w);
        if (args.gated) value = activate(args.activation, value) * product(args.outputs[1], r, &h[t * k], up);
        float& y = output.y.row<float>(t)[r];
        y = static_cast<float>(args.accumulate ? y + value : value);
      }
    }
  }
}

}  // namespace imp::reference
