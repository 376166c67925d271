#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/half.h"
#include "ops/args.h"
#include "support/random.h"

namespace imp::test {

/// A ragged batch with its own paged cache. Blocks are shuffled over the pool, one block is nobody's, and every slot
/// that no token owns holds NaN.
class PagedBatch {
 public:
  struct Sequence {
    int new_tokens;
    int context;  // the new tokens included
  };
  static constexpr int kBlockSize = 16;

  PagedBatch(std::vector<Sequence> sequences, int num_kv_heads, int head_dim, Random& random)
      : sequences_(std::move(sequences)), num_kv_heads_(num_kv_heads), head_dim_(head_dim) {
    int longest = 1, total = 1;
    for (const Sequence& s : sequences_) {
      longest = std::max(longest, blocks(s));
      total += blocks(s);
    }
    table_stride_ = longest + 1;
    std::vector<int32_t> ids(total);
    for (int i = 0; i < total; ++i) ids[i] = i;
    random.shuffle(ids);
    block_tables_.assign(sequences_.size() * table_stride_, -1000000);  // an entry nobody may follow
    query_start_ = {0};
    for (size_t s = 0; s < sequences_.size(); ++s) {
      for (int b = 0; b < blocks(sequences_[s]); ++b, ids.pop_back()) block_tables_[s * table_stride_ + b] = ids.back();
      query_start_.push_back(query_start_.back() + sequences_[s].new_tokens);
      context_len_.push_back(sequences_[s].context);
      for (int i = sequences_[s].new_tokens; i > 0; --i) positions_.push_back(sequences_[s].context - i);
    }
    k_.assign(int64_t{total} * num_kv_heads * kBlockSize * head_dim, kNan);
    v_ = k_;
  }

  /// Gives every owned slot a key and a value.
  void fill(Random& random, float k_sigma, float v_sigma) {
    const std::vector<float> gains = random.outlier_heavy(1, head_dim_);
    for (size_t s = 0; s < sequences_.size(); ++s) {
      for (int p = 0; p < sequences_[s].context; ++p) {
        for (int h = 0; h < num_kv_heads_; ++h) {
          const int64_t at = offset(static_cast<int>(s), p, h);
          for (int d = 0; d < head_dim_; ++d) {
            k_[at + d] = f32_to_f16(k_sigma * random.normal() * std::max(1.0f, std::abs(gains[d]) / 8));
            v_[at + d] = f32_to_f16(v_sigma * random.normal());
          }
        }
      }
    }
  }

  int64_t offset(int sequence, int position, int kv_head) const {
    const int64_t block = block_tables_[sequence * table_stride_ + position / kBlockSize];
    return ((block * num_kv_heads_ + kv_head) * kBlockSize + position % kBlockSize) * head_dim_;
  }

  int64_t tokens() const { return query_start_.back(); }
  KvLayerView cache() { return {k_.data(), v_.data(), DType::f16, num_kv_heads_, head_dim_, kBlockSize}; }
  SequenceBatch batch() const {
    SequenceBatch view;
    view.num_sequences = static_cast<int>(sequences_.size());
    view.query_start = query_start_.data();
    view.context_len = context_len_.data();
    view.block_tables = block_tables_.data();
    view.block_table_stride = table_stride_;
    view.positions = positions_.data();
    for (const Sequence& s : sequences_) {
      view.max_query_len = std::max(view.max_query_len, s.new_tokens);
      view.max_context_len = std::max(view.max_context_len, s.context);
    }
    return view;
  }
  std::vector<uint16_t>& k() { return k_; }
  std::vector<uint16_t>& v() { return v_; }

 private:
  static constexpr uint16_t kNan = 0x7e00;
  static int blocks(const Sequence& s) { return (s.context + kBlockSize - 1) / kBlockSize; }

  std::vector<Sequence> sequences_;
  int num_kv_heads_, head_dim_, table_stride_ = 1;
  std::vector<int32_t> query_start_, context_len_, block_tables_, positions_;
  std::vector<uint16_t> k_, v_;
};

}  // namespace imp::test
