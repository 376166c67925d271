#include "exec/diagnostics.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <span>

#include "core/directory.h"
#include "core/error.h"
#include "exec/backend.h"

namespace imp {
namespace {

/// The values of a view, row after row, on the host.
std::vector<float> to_host(const TensorView& view, Backend& backend) {
  std::vector<float> values(static_cast<size_t>(view.rows * view.cols));
  for (int64_t row = 0; row < view.rows; ++row) {
    backend.download(values.data() + row * view.cols, view.row<float>(row), view.cols * sizeof(float));
  }
  return values;
}

/// NumPy's format 1.0: magic, version, header length, a Python dict padded with spaces to 64 bytes, the data.
void write_npy(const std::string& path, std::span<const float> values, int64_t rows, int64_t cols) {
  std::string header = cat("{'descr': '<f4', 'fortran_order': False, 'shape': (", rows, ", ", cols, "), }");
  constexpr size_t kPrefix = 10;
  header.append(64 - (kPrefix + header.size() + 1) % 64, ' ');
  header += '\n';
  std::string prefix = "\x93NUMPY";
  prefix += {'\x01', '\x00', static_cast<char>(header.size() % 256), static_cast<char>(header.size() / 256)};

  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << prefix << header;
  file.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size_bytes()));
  file.close();
  if (!file) fail(ErrorCode::io, "cannot write ", path, " (diagnostics.dump_hidden_dir); is the disk full?");
}

std::string summary(std::span<const float> values) {
  float low = INFINITY, high = -INFINITY;
  double sum = 0;
  int64_t num_nan = 0, num_inf = 0;
  for (const float value : values) {
    num_nan += std::isnan(value);
    num_inf += std::isinf(value);
    if (!std::isfinite(value)) continue;
    low = std::min(low, value);
    high = std::max(high, value);
    sum += value;
  }
  const int64_t finite = static_cast<int64_t>(values.size()) - num_nan - num_inf;
  std::string text = cat("min=", low, " max=", high, " mean=", static_cast<float>(finite > 0 ? sum / finite : NAN),
                         " nan=", num_nan, " inf=", num_inf, " first=");
  for (size_t i = 0; i < std::min<size_t>(values.size(), 4); ++i) text += cat(i ? "," : "", values[i]);
  return text;
}

void append_right(std::string& text, const std::string& word, size_t width) {
  text.append(width - std::min(width, word.size()), ' ');
  text += word;
}

std::string percent(int64_t part, int64_t total) {
  const int64_t tenths = std::llround(total > 0 ? 1000.0 * part / total : 0.0);
  return cat(tenths / 10, ".", tenths % 10);
}

}  // namespace

HiddenDumper::HiddenDumper(std::string directory, Backend& backend)
    : directory_(std::move(directory)), backend_(backend) {
  make_writable_directory(directory_, "diagnostics.dump_hidden_dir");
}

void HiddenDumper::on_hidden(int layer, TensorView hidden) {
  if (layer < 0) ++step_;
  const std::string path = cat(directory_, "/hidden_L", layer + 1, "_step", step_, ".npy");
  write_npy(path, to_host(hidden, backend_), hidden.rows, hidden.cols);
}

void ForwardPrinter::on_hidden(int layer, TensorView hidden) {
  const std::string where = layer < 0 ? "embedding" : cat("layer ", layer, " hidden");
  print_(cat(where, " [", hidden.rows, ", ", hidden.cols, "] ", summary(to_host(hidden, backend_))));
}

void ForwardPrinter::on_ffn_activation(int layer, TensorView activation) {
  print_(cat("layer ", layer, " ffn [", activation.rows, ", ", activation.cols, "] ",
             summary(to_host(activation, backend_))));
}

void SparsityProbe::on_ffn_activation(int layer, TensorView activation) {
  LayerCounts& counts = layers_[layer];
  for (const float value : to_host(activation, backend_)) {
    ++counts.total;
    for (size_t i = 0; i < kThresholds.size(); ++i) counts.below[i] += std::abs(value) < kThresholds[i];
  }
}

std::string SparsityProbe::table() const {
  std::string text =
      "share of FFN activations below a threshold, in percent\nlayer   <0.005   <0.010   <0.020   <0.050   <0.100   "
      "of\n";
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    const LayerCounts& counts = layers_[layer];
    append_right(text, cat(layer), 5);
    for (const int64_t below : counts.below) append_right(text, percent(below, counts.total), 9);
    text += cat("   ", counts.total, "\n");
  }
  return text;
}

void ObserverList::on_hidden(int layer, TensorView hidden) {
  for (ForwardObserver* observer : observers_) observer->on_hidden(layer, hidden);
}

void ObserverList::on_ffn_activation(int layer, TensorView activation) {
  for (ForwardObserver* observer : observers_) observer->on_ffn_activation(layer, activation);
}

}  // namespace imp
