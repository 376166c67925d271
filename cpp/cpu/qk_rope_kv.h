#pragma once
#include <array>
#include <string_view>
#include <vector>

#include "cpu/context.h"
#include "cpu/lazy_memory.h"
#include "ops/args.h"
#include "ops/kernel_table.h"

namespace imp::cpu {

/// Cosines and sines of a batch's positions. All layers of a step that share their frequencies ask for the same
/// tables, so the last few are kept, known again by the content of what they were made from.
class RopeCache {
 public:
  RopeCache();
  /// [batch tokens, rotary_dim]: rotary_dim / 2 cosines, then sines, times the magnitude. Null where the batch is
  /// larger than the tables can be.
  const float* find_or_make(const QkRopeKvArgs& args);

 private:
  struct Key {
    LazyMemory memory;  // [rotary_dim / 2] inv_freq, then [tokens] positions
    int rotary_dim = 0;
    int64_t tokens = 0;
    float magnitude = 0;
  };
  struct Table {
    Key key;
    LazyMemory values;
  };
  bool matches(const Key& key, const QkRopeKvArgs& args) const;

  std::array<Table, 2> tables_;  // Gemma 3 alternates between two
  int next_ = 0;                 // to be replaced
};

struct QkRopeKvProblem {
  Isa isa;
  int head_dim;
  int block_size;
};
using QkRopeKvTable = KernelTable<QkRopeKvProblem, void (*)(const QkRopeKvArgs&, const float* cos_sin, Range tokens)>;
const QkRopeKvTable& qk_rope_kv_table();
std::string_view run_qk_rope_kv(const CpuContext& context, RopeCache& cache, const QkRopeKvArgs& args);

}  // namespace imp::cpu
