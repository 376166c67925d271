#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace imp {

using BlockId = int32_t;

/// Who uses which block of the KV cache: a free list and one reference count a block. Knows ids only; the memory is
/// the backend's. A block has as many references as block tables it stands in.
class BlockPool {
 public:
  explicit BlockPool(int64_t num_blocks);

  /// A free block with one reference, or nothing where none is free.
  std::optional<BlockId> allocate();
  void retain(BlockId block);   // one more table refers to it
  void release(BlockId block);  // one fewer; free at zero

  int ref_count(BlockId block) const { return ref_counts_[static_cast<size_t>(block)]; }
  int64_t num_blocks() const { return static_cast<int64_t>(ref_counts_.size()); }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }
  int64_t num_used() const { return num_blocks() - num_free(); }
  int64_t peak_used() const { return peak_used_; }

  /// What is wrong, "" when nothing is: counts equal the occurrences in `tables`, free blocks are referred to by
  /// nobody and listed once, free + used = all.
  std::string check_integrity(std::span<const std::vector<BlockId>* const> tables) const;

 private:
  std::vector<BlockId> free_;  // a stack: the block freed last is the warmest in the caches
  std::vector<int32_t> ref_counts_;
  int64_t peak_used_ = 0;
};

}  // namespace imp
