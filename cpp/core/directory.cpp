#include "core/directory.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "core/error.h"

namespace imp {

void make_writable_directory(const std::string& path, std::string_view key) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!error && std::filesystem::is_directory(path) && ::access(path.c_str(), W_OK | X_OK) == 0) return;
  fail(ErrorCode::io, key, ": cannot write into the directory ", path, ": ",
       error ? error.message() : std::strerror(errno));
}

}  // namespace imp
