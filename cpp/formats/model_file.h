#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "quant/format.h"

namespace imp {

/// A metadata value. Integers of every width and sign are widened; arrays hold one kind each.
using MetaValue = std::variant<bool, int64_t, uint64_t, double, std::string, std::vector<bool>, std::vector<int64_t>,
                               std::vector<uint64_t>, std::vector<double>, std::vector<std::string>>;

/// One tensor of a model file. `shape` is outermost first ([out_features, in_features] for a linear
/// weight), the reverse of the order in a GGUF file; `data` is proven to lie inside the mapped file.
struct TensorInfo {
  std::string name;
  WeightFormat format;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;
  int shard = 0;             // which file of a split model
  uint64_t file_offset = 0;  // of `data` in that file, for messages

  int64_t num_elements() const;
};

/// A model on disk: metadata and tensors, validated once, mapped for as long as this object lives.
class ModelFile {
 public:
  virtual ~ModelFile() = default;

  virtual const std::string& path() const = 0;
  virtual std::string_view format_name() const = 0;  // "GGUF v3"
  virtual uint64_t file_bytes() const = 0;           // all shards
  virtual std::span<const TensorInfo> tensors() const = 0;
  virtual const TensorInfo* find_tensor(std::string_view name) const = 0;
  virtual const MetaValue* find(std::string_view key) const = 0;
  virtual std::vector<std::string> keys() const = 0;  // in file order

  /// Typed access. A missing key gives `fallback`, or an invalid_model error naming the key where there is
  /// none; a key of another type is always an error.
  int64_t get_int(std::string_view key) const;
  int64_t get_int(std::string_view key, int64_t fallback) const;
  double get_float(std::string_view key) const;
  double get_float(std::string_view key, double fallback) const;
  bool get_bool(std::string_view key, bool fallback) const;
  std::string get_string(std::string_view key) const;
  std::string get_string(std::string_view key, std::string_view fallback) const;
  const std::vector<std::string>* find_strings(std::string_view key) const;
  bool has(std::string_view key) const { return find(key) != nullptr; }
};

/// Opens a GGUF file, or the first shard `-00001-of-0000N.gguf` of a split one together with its siblings.
std::unique_ptr<ModelFile> open_model_file(const std::string& path);

}  // namespace imp
