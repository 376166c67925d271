#pragma once
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/text.h"
#include "quant/format.h"

namespace imp::test {

// Value types of GGUF metadata.
inline constexpr uint32_t kGgufU8 = 0, kGgufI8 = 1, kGgufU16 = 2, kGgufI16 = 3, kGgufU32 = 4, kGgufI32 = 5,
                          kGgufF32 = 6, kGgufBool = 7, kGgufString = 8, kGgufArray = 9, kGgufU64 = 10, kGgufI64 = 11,
                          kGgufF64 = 12;

/// An integer of a GGUF header and where it lies, so that a test can overwrite it.
struct GgufField {
  std::string label;  // "version", "tensor count", "key general.name: value length", "tensor a: dim 0", ...
  size_t offset;
  size_t width;  // bytes
};

/// The bytes of a GGUF file, with a map of its integers.
struct GgufImage {
  std::vector<std::byte> bytes;
  std::vector<GgufField> fields;

  const GgufField& field(std::string_view label) const {
    for (const GgufField& candidate : fields) {
      if (candidate.label == label) return candidate;
    }
    throw std::out_of_range(cat("no field ", label));
  }
  void set(const GgufField& at, uint64_t value) { std::memcpy(bytes.data() + at.offset, &value, at.width); }
  void set(std::string_view label, uint64_t value) { set(field(label), value); }
  GgufImage with(std::string_view label, uint64_t value) const {
    GgufImage copy = *this;
    copy.set(label, value);
    return copy;
  }
};

/// Writes GGUF files in memory: `GgufBuilder().string("general.architecture", "llama").tensor(...).build()`.
/// Well-formed ones by default; every count, length and offset can be overwritten afterwards.
class GgufBuilder {
 public:
  template <class T>
  GgufBuilder& number(const std::string& key, T value) {
    begin_pair(key, type_of<T>());
    append(metadata_, cat("key ", key, ": value"), value);
    return *this;
  }
  GgufBuilder& string(const std::string& key, std::string_view value) {
    begin_pair(key, kGgufString);
    append_string(metadata_, cat("key ", key, ": value length"), value);
    return *this;
  }
  template <class T>
  GgufBuilder& array(const std::string& key, const std::vector<T>& values) {
    begin_array(key, type_of<T>(), values.size());
    for (const T value : values) append_bytes(metadata_, &value, sizeof value);
    return *this;
  }
  GgufBuilder& strings(const std::string& key, const std::vector<std::string>& values) {
    begin_array(key, kGgufString, values.size());
    for (size_t i = 0; i < values.size(); ++i) append_string(metadata_, cat("key ", key, ": length ", i), values[i]);
    return *this;
  }
  /// A pair whose value is given as raw bytes.
  GgufBuilder& raw(const std::string& key, uint32_t type, std::string_view value) {
    begin_pair(key, type);
    append_bytes(metadata_, value.data(), value.size());
    return *this;
  }

  /// `shape` is outermost first, as in TensorInfo. Without `data` the tensor gets a pattern of bytes.
  GgufBuilder& tensor(const std::string& name, WeightFormat format, const std::vector<int64_t>& shape,
                      std::vector<std::byte> data = {}) {
    const size_t size = tensor_bytes(format, shape);
    if (data.empty()) {
      for (size_t i = 0; i < size; ++i) data.push_back(static_cast<std::byte>((i * 37 + 11) % 59));
    }
    assert(data.size() == size);
    return raw_tensor(name, info(format).ggml_type, shape, std::move(data));
  }
  GgufBuilder& raw_tensor(const std::string& name, uint32_t ggml_type, const std::vector<int64_t>& shape,
                          std::vector<std::byte> data) {
    tensors_.push_back({name, ggml_type, shape, std::move(data)});
    return *this;
  }

  /// Where the data of the tensors are aligned; write the key general.alignment as well.
  GgufBuilder& align(size_t alignment) {
    alignment_ = alignment;
    return *this;
  }

  GgufImage build() const {
    GgufImage image;
    append_bytes(image, "GGUF", 4);
    append(image, "version", uint32_t{3});
    append(image, "tensor count", uint64_t{tensors_.size()});
    append(image, "key count", num_pairs_);
    for (GgufField field : metadata_.fields) {
      field.offset += image.bytes.size();
      image.fields.push_back(std::move(field));
    }
    image.bytes.insert(image.bytes.end(), metadata_.bytes.begin(), metadata_.bytes.end());
    size_t data_offset = 0;
    for (const Tensor& tensor : tensors_) {
      append_description(image, tensor, data_offset);
      data_offset = padded(data_offset + tensor.data.size());
    }
    for (const Tensor& tensor : tensors_) {
      image.bytes.resize(padded(image.bytes.size()));
      image.bytes.insert(image.bytes.end(), tensor.data.begin(), tensor.data.end());
    }
    return image;
  }

 private:
  struct Tensor {
    std::string name;
    uint32_t ggml_type;
    std::vector<int64_t> shape;
    std::vector<std::byte> data;
  };

  template <class T>
  static constexpr uint32_t type_of() {
    if constexpr (std::is_same_v<T, bool>) return kGgufBool;
    if constexpr (std::is_same_v<T, float>) return kGgufF32;
    if constexpr (std::is_same_v<T, double>) return kGgufF64;
    if constexpr (sizeof(T) == 1) return std::is_signed_v<T> ? kGgufI8 : kGgufU8;
    if constexpr (sizeof(T) == 2) return std::is_signed_v<T> ? kGgufI16 : kGgufU16;
    if constexpr (sizeof(T) == 4) return std::is_signed_v<T> ? kGgufI32 : kGgufU32;
    return std::is_signed_v<T> ? kGgufI64 : kGgufU64;
  }

  static size_t tensor_bytes(WeightFormat format, const std::vector<int64_t>& shape) {
    size_t rows = 1;
    for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= static_cast<size_t>(shape[i]);
    return rows * static_cast<size_t>(row_bytes(format, shape.back()));
  }

  size_t padded(size_t size) const { return (size + alignment_ - 1) / alignment_ * alignment_; }

  static void append_bytes(GgufImage& out, const void* bytes, size_t size) {
    const auto* first = static_cast<const std::byte*>(bytes);
    out.bytes.insert(out.bytes.end(), first, first + size);
  }
  template <class T>
  static void append(GgufImage& out, std::string label, T value) {
    out.fields.push_back({std::move(label), out.bytes.size(), sizeof value});
    append_bytes(out, &value, sizeof value);
  }
  static void append_string(GgufImage& out, std::string label, std::string_view text) {
    append(out, std::move(label), uint64_t{text.size()});
    append_bytes(out, text.data(), text.size());
  }

  void begin_pair(const std::string& key, uint32_t type) {
    ++num_pairs_;
    append_string(metadata_, cat("key ", key, ": key length"), key);
    append(metadata_, cat("key ", key, ": type"), type);
  }
  void begin_array(const std::string& key, uint32_t type, size_t count) {
    begin_pair(key, kGgufArray);
    append(metadata_, cat("key ", key, ": element type"), type);
    append(metadata_, cat("key ", key, ": array length"), uint64_t{count});
  }
  static void append_description(GgufImage& out, const Tensor& tensor, size_t data_offset) {
    const std::string subject = cat("tensor ", tensor.name, ": ");
    append_string(out, subject + "name length", tensor.name);
    append(out, subject + "dims", static_cast<uint32_t>(tensor.shape.size()));
    for (size_t i = 0; i < tensor.shape.size(); ++i) {
      append(out, cat(subject, "dim ", i), static_cast<uint64_t>(tensor.shape[tensor.shape.size() - 1 - i]));
    }
    append(out, subject + "type", tensor.ggml_type);
    append(out, subject + "offset", uint64_t{data_offset});
  }

  GgufImage metadata_;
  uint64_t num_pairs_ = 0;
  std::vector<Tensor> tensors_;
  size_t alignment_ = 32;
};

}  // namespace imp::test
