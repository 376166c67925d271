#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace imp {

/// A hash table from 64-bit keys, filled once and then only read: open addressing at half load. The key ~0 is not
/// allowed.
template <class Value>
class FlatMap {
 public:
  explicit FlatMap(size_t expected = 0) { resize(expected); }

  /// Keeps the value that is there; says whether the key was new.
  bool insert(uint64_t key, Value value) {
    if (2 * (size_ + 1) > slots_.size()) grow();
    Slot& slot = slots_[position(key)];
    if (slot.key == key) return false;
    slot = {key, value};
    ++size_;
    return true;
  }

  const Value* find(uint64_t key) const {
    const Slot& slot = slots_[position(key)];
    return slot.key == key ? &slot.value : nullptr;
  }

  size_t size() const { return size_; }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  struct Slot {
    uint64_t key = kEmpty;
    Value value{};
  };

  size_t position(uint64_t key) const {
    size_t at = (key * 0x9e3779b97f4a7c15u) >> shift_;
    while (slots_[at].key != key && slots_[at].key != kEmpty) at = (at + 1) & (slots_.size() - 1);
    return at;
  }

  void resize(size_t expected) {
    const size_t capacity = std::bit_ceil(2 * expected + 8);
    slots_.assign(capacity, Slot{});
    shift_ = 64 - std::countr_zero(capacity);
  }

  void grow() {
    std::vector<Slot> old = std::move(slots_);
    resize(old.size());
    for (const Slot& slot : old) {
      if (slot.key != kEmpty) slots_[position(slot.key)] = slot;
    }
  }

  std::vector<Slot> slots_;
  size_t size_ = 0;
  int shift_ = 0;
};

}  // namespace imp
