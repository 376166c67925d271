#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace imp {

/// A regular file mapped read-only. Bytes outside its size at opening are never handed out.
/// Errors: file_not_found (missing), invalid_model (a directory, FIFO, device or empty), io (cannot be mapped).
///
/// The mapping follows the file. Replacing it by rename, as every package manager and downloader does, is safe: the
/// old contents stay mapped. Writing into it changes bytes under the reader, so parsers copy a value before they
/// check it. Shrinking it makes the lost pages fatal (SIGBUS) when they are touched; a library cannot handle that
/// signal on behalf of its host, so require_unchanged() finds it early and the rest is left to the process border.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&&) noexcept;
  MappedFile& operator=(MappedFile&&) noexcept;

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::string& path() const { return path_; }

  /// An io error where the file no longer has the size it was mapped with. One system call.
  void require_unchanged() const;

 private:
  std::string path_;
  std::span<const std::byte> bytes_;
  int descriptor_ = -1;
};

}  // namespace imp
