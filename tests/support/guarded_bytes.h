#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <new>
#include <span>

namespace imp::test {

/// A copy of some bytes that ends where readable memory ends: one byte read too far is a fault, in any build.
class GuardedBytes {
 public:
  explicit GuardedBytes(std::span<const std::byte> bytes) {
    const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    const size_t readable = (bytes.size() + page - 1) / page * page;
    mapped_ = readable + page;
    start_ = ::mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start_ == MAP_FAILED) throw std::bad_alloc();
    auto* end = static_cast<std::byte*>(start_) + readable;
    if (!bytes.empty()) std::memcpy(end - bytes.size(), bytes.data(), bytes.size());
    ::mprotect(start_, readable, PROT_READ);
    ::mprotect(end, page, PROT_NONE);
    bytes_ = {end - bytes.size(), bytes.size()};
  }
  ~GuardedBytes() { ::munmap(start_, mapped_); }
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  void* start_ = nullptr;
  size_t mapped_ = 0;
  std::span<const std::byte> bytes_;
};

}  // namespace imp::test
