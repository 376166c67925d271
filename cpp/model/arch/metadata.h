#pragma once
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "formats/model_file.h"
#include "model/spec.h"

namespace imp {

/// Reads the keys `<architecture>.<key>` of a model file, each checked against a sane range. Families build their
/// specs from it; every error names the file, the full key, the value and what was expected.
class ArchMetadata {
 public:
  explicit ArchMetadata(const ModelFile& file);

  /// What most decoders share: sizes, uniform layers with grouped-query attention, silu-gated FFN, standard RoPE
  /// (half_split; a family may change the pairing), scale head_dim^-1/2, tied head where output.weight is absent.
  ModelSpec read_common() const;

  int count(std::string_view key, int64_t max) const;  // 1..max, required
  int count(std::string_view key, int64_t max, int64_t fallback) const;
  /// One value for every layer, from a number or an array of num_layers numbers.
  std::vector<int> per_layer_counts(std::string_view key, int num_layers, int64_t max, int64_t fallback = -1) const;
  float positive(std::string_view key, double fallback = kRequired) const;  // finite and > 0
  bool has(std::string_view key) const { return file_.has(full(key)); }
  bool has_tensor(std::string_view name) const { return file_.find_tensor(name) != nullptr; }

  /// `rope.*` keys, and the frequency divisors of `rope_freqs.weight` where the family uses them.
  RopeSpec read_rope(int head_dim, int context_length) const;
  std::vector<float> read_rope_freqs(int rotary_dim) const;

  /// Fails as `unsupported` where the key is present with a value above zero.
  void refuse(std::string_view key, std::string_view what) const;

  const ModelFile& file() const { return file_; }
  std::string full(std::string_view key) const { return architecture_ + "." + std::string(key); }

 private:
  static constexpr double kRequired = std::numeric_limits<double>::lowest();

  int checked_count(std::string_view key, int64_t value, int64_t max) const;
  int read_vocab_size() const;

  const ModelFile& file_;
  std::string architecture_;
};

}  // namespace imp
