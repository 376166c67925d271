#pragma once
#include <array>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "exec/decoder.h"

namespace imp {

/// diagnostics.dump_hidden_dir: the residual stream of each forward pass as `hidden_L<layer>_step<n>.npy`, float32
/// [tokens, hidden_size]. L0 is after the embedding and Li after i layers, as in Hugging Face's hidden_states (whose
/// last one is past the final norm; here it is before). Steps count from 0.
class HiddenDumper : public ForwardObserver {
 public:
  /// Creates `directory` where it is missing. Errors: io.
  HiddenDumper(std::string directory, Backend& backend);
  void on_hidden(int layer, TensorView hidden) override;
  void on_ffn_activation(int, TensorView) override {}

 private:
  std::string directory_;
  Backend& backend_;
  int64_t step_ = -1;
};

/// diagnostics.debug_forward: one line for the residual and one for the FFN's activation of each layer, with range,
/// mean, counts of NaN and infinities, and the first values.
class ForwardPrinter : public ForwardObserver {
 public:
  using Print = std::function<void(std::string_view line)>;
  ForwardPrinter(Print print, Backend& backend) : print_(std::move(print)), backend_(backend) {}
  void on_hidden(int layer, TensorView hidden) override;
  void on_ffn_activation(int layer, TensorView activation) override;

 private:
  Print print_;
  Backend& backend_;
};

/// ffn.sparsity_probe: how many FFN activations of each layer are smaller than each threshold.
class SparsityProbe : public ForwardObserver {
 public:
  static constexpr std::array<float, 5> kThresholds = {0.005f, 0.01f, 0.02f, 0.05f, 0.1f};
  struct LayerCounts {
    int64_t total = 0;  // tokens * intermediate_size
    std::array<int64_t, kThresholds.size()> below = {};
  };

  SparsityProbe(int num_layers, Backend& backend) : layers_(num_layers), backend_(backend) {}
  void on_hidden(int, TensorView) override {}
  void on_ffn_activation(int layer, TensorView activation) override;

  const std::vector<LayerCounts>& layers() const { return layers_; }
  std::string table() const;  // a line a layer, shares in percent

 private:
  std::vector<LayerCounts> layers_;
  Backend& backend_;
};

/// Several observers as one, in the order they were added.
class ObserverList : public ForwardObserver {
 public:
  void add(ForwardObserver& observer) { observers_.push_back(&observer); }
  bool empty() const { return observers_.empty(); }
  void on_hidden(int layer, TensorView hidden) override;
  void on_ffn_activation(int layer, TensorView activation) override;

 private:
  std::vector<ForwardObserver*> observers_;
};

}  // namespace imp
