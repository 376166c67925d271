#include "cpu/lazy_memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace imp::cpu {

LazyMemory::LazyMemory(uint64_t bytes) {
  if (bytes == 0) return;
  void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) {
    fail(ErrorCode::out_of_memory, "cannot reserve ", bytes >> 20, " MiB of memory: ", std::strerror(errno),
         "; choose a shorter context or fewer sequences");
  }
  data_ = static_cast<std::byte*>(pages);
  size_ = bytes;
}

LazyMemory::~LazyMemory() {
  if (data_) munmap(data_, size_);
}

LazyMemory::LazyMemory(LazyMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

LazyMemory& LazyMemory::operator=(LazyMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace imp::cpu
