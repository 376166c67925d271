#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace imp {

/// A regular file mapped read-only. Bytes outside its size at opening are never handed out.
/// Errors: file_not_found (missing), invalid_model (a directory, FIFO, device or empty), io (cannot be mapped).
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&&) noexcept;
  MappedFile& operator=(MappedFile&&) noexcept;

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::span<const std::byte> bytes_;
};

}  // namespace imp
