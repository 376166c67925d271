#include "kv/block_pool.h"

#include <algorithm>
#include <cassert>
#include <numeric>

#include "core/text.h"

namespace imp {

BlockPool::BlockPool(int64_t num_blocks)
    : free_(static_cast<size_t>(num_blocks)), ref_counts_(static_cast<size_t>(num_blocks), 0) {
  std::iota(free_.rbegin(), free_.rend(), 0);  // block 0 is handed out first
}

std::optional<BlockId> BlockPool::allocate() {
  if (free_.empty()) return std::nullopt;
  const BlockId block = free_.back();
  free_.pop_back();
  ref_counts_[static_cast<size_t>(block)] = 1;
  peak_used_ = std::max(peak_used_, num_used());
  return block;
}

void BlockPool::retain(BlockId block) {
  assert(ref_count(block) > 0);
  ++ref_counts_[static_cast<size_t>(block)];
}

void BlockPool::release(BlockId block) {
  assert(ref_count(block) > 0);
  if (--ref_counts_[static_cast<size_t>(block)] == 0) free_.push_back(block);
}

std::string BlockPool::check_integrity(std::span<const std::vector<BlockId>* const> tables) const {
  std::vector<int32_t> owners(ref_counts_.size(), 0);
  for (const std::vector<BlockId>* table : tables) {
    for (BlockId block : *table) {
      if (block < 0 || block >= num_blocks()) return cat("a table refers to block ", block, " of ", num_blocks());
      ++owners[static_cast<size_t>(block)];
    }
  }
  std::vector<bool> is_free(ref_counts_.size(), false);
  for (BlockId block : free_) {
    if (is_free[static_cast<size_t>(block)]) return cat("block ", block, " is in the free list twice");
    is_free[static_cast<size_t>(block)] = true;
  }
  for (size_t block = 0; block < owners.size(); ++block) {
    if (owners[block] != ref_counts_[block])
      return cat("block ", block, " has ", owners[block], " owners and ", ref_counts_[block], " references");
    if (is_free[block] != (owners[block] == 0))
      return cat("block ", block, is_free[block] ? " is free and owned" : " is neither free nor owned");
  }
  return "";
}

}  // namespace imp
