#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "formats/model_file.h"

namespace imp {

/// What one GGUF file says. Tensor data point into the bytes that were parsed.
struct GgufContents {
  std::vector<std::pair<std::string, MetaValue>> metadata;  // in file order, keys unique
  std::vector<TensorInfo> tensors;                          // in file order, names unique, data disjoint
  uint64_t alignment = 32;
  uint64_t data_start = 0;  // offset of the tensor data in the file
};

// What a file may ask for. Real models stay far below.
inline constexpr uint64_t kGgufMaxKeys = 64 * 1024;
inline constexpr uint64_t kGgufMaxTensors = 1024 * 1024;
inline constexpr uint64_t kGgufMaxKeyBytes = 64 * 1024 - 1;
inline constexpr uint64_t kGgufMaxNameBytes = 256;
inline constexpr uint64_t kGgufMaxStringBytes = 64ull << 20;
inline constexpr uint64_t kGgufMaxMetadataBytes = 256ull
                                                  << 20;       // all strings together, 8 bytes of length each included
inline constexpr uint64_t kGgufMaxArrayElements = 1ull << 24;  // all arrays together
inline constexpr uint64_t kGgufMaxDims = 4;
inline constexpr uint64_t kGgufMaxElements = 1ull << 48;  // of one tensor
inline constexpr uint64_t kGgufMaxAlignment = 64 * 1024;

/// Reads the header of a GGUF v3 file and checks everything in it that can be checked without knowing the architecture.
/// No byte outside `file` is read, whatever the file says, and nothing is allocated before the file is shown to hold
/// the bytes for it. Time and memory are linear in the size of the header (n log n for the uniqueness checks).
/// Metadata strings are bytes: who needs UTF-8 checks it. `name` is what error messages call the file.
/// Errors: invalid_model (damaged or inconsistent) and unsupported (well-formed, but an old version, big-endian, or a
/// weight format imp does not have); the message has the byte offset and the key or tensor.
GgufContents parse_gguf(std::span<const std::byte> file, const std::string& name);

}  // namespace imp
