#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace imp {
namespace {

std::string reason(int error) { return std::generic_category().message(error); }

const char* kind_of(const struct stat& status) {
  if (S_ISDIR(status.st_mode)) return "a directory";
  if (S_ISFIFO(status.st_mode)) return "a FIFO";
  if (S_ISSOCK(status.st_mode)) return "a socket";
  return "a device";
}

int open_for_reading(const std::string& path) {
  if (path.empty()) fail(ErrorCode::file_not_found, "no file name given");
  // A NUL would silently cut the name that the system sees.
  if (path.find('\0') != std::string::npos) fail(ErrorCode::file_not_found, "the file name contains a NUL byte");
  // O_NONBLOCK: opening a FIFO that has no writer must not wait.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (descriptor >= 0) return descriptor;
  const int error = errno;
  const bool missing = error == ENOENT || error == ENOTDIR || error == ENAMETOOLONG;
  // A socket cannot be opened at all; it exists, but it is no file.
  if (error == ENXIO) fail(ErrorCode::invalid_model, path, ": expected a regular file, found a socket or device");
  fail(missing ? ErrorCode::file_not_found : ErrorCode::io, path, ": cannot open: ", reason(error));
}

std::span<const std::byte> map_regular_file(const std::string& path, int descriptor) {
  struct stat status = {};
  if (::fstat(descriptor, &status) != 0) fail(ErrorCode::io, path, ": cannot read its size: ", reason(errno));
  if (!S_ISREG(status.st_mode)) {
    fail(ErrorCode::invalid_model, path, ": expected a regular file, found ", kind_of(status));
  }
  if (status.st_size == 0) fail(ErrorCode::invalid_model, path, ": the file is empty (0 bytes)");
  const auto size = static_cast<size_t>(status.st_size);
  void* start = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor, 0);
  if (start == MAP_FAILED) fail(ErrorCode::io, path, ": cannot map ", size, " bytes: ", reason(errno));
  return {static_cast<const std::byte*>(start), size};
}

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path), descriptor_(open_for_reading(path)) {
  try {
    bytes_ = map_regular_file(path_, descriptor_);
  } catch (...) {
    ::close(descriptor_);
    throw;
  }
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  if (descriptor_ >= 0) ::close(descriptor_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      bytes_(std::exchange(other.bytes_, {})),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(bytes_, other.bytes_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

void MappedFile::require_unchanged() const {
  struct stat status = {};
  if (::fstat(descriptor_, &status) != 0) fail(ErrorCode::io, path_, ": cannot read its size: ", reason(errno));
  const auto size = static_cast<uint64_t>(status.st_size);
  if (size == bytes_.size()) return;
  fail(ErrorCode::io, path_, ": the file changed while it was open: expected ", bytes_.size(), " bytes, found ", size,
       "; write models under another name and rename them into place");
}

}  // namespace imp
