#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace imp::cpu {

/// Zero-filled pages of the operating system. Reserved at once, committed as they are touched: a KV pool of which
/// little is used costs little.
class LazyMemory {
 public:
  LazyMemory() = default;
  explicit LazyMemory(uint64_t bytes);  // out_of_memory where the system refuses
  ~LazyMemory();
  LazyMemory(LazyMemory&& other) noexcept;
  LazyMemory& operator=(LazyMemory&& other) noexcept;

  std::byte* data() const { return data_; }
  uint64_t size() const { return size_; }
  std::span<std::byte> bytes() const { return {data_, size_}; }

 private:
  std::byte* data_ = nullptr;
  uint64_t size_ = 0;
};

}  // namespace imp::cpu
