#include "cpu/qk_rope_kv.h"

#include <cmath>
#include <cstring>

#include "cpu/elementwise.h"
#include "cpu/kernels.h"
#include "reference/reference.h"

namespace imp::cpu {
namespace {

constexpr uint64_t kTableBytes = uint64_t{64} << 20;  // reserved; 65 536 tokens of 256 rotated dimensions
constexpr uint64_t kKeyBytes = uint64_t{4} << 20;

void fill_table(const QkRopeKvArgs& args, Range tokens, float* table) {
  const int pairs = args.rotary_dim / 2;
  for (int64_t t = tokens.begin; t < tokens.end; ++t) {
    float *cosines = table + t * args.rotary_dim, *sines = cosines + pairs;
    for (int i = 0; i < pairs; ++i) {
      const float angle = static_cast<float>(args.batch.positions[t]) * args.inv_freq[i];
      cosines[i] = std::cos(angle) * args.rope_magnitude;
      sines[i] = std::sin(angle) * args.rope_magnitude;
    }
  }
}

template <Isa Needed>
const char* reject_vector(const QkRopeKvProblem& problem) {
  if (problem.isa < Needed) return Needed == Isa::avx512 ? "needs AVX-512" : "needs AVX2";
  if (problem.head_dim % 8 != 0) return "head_dim is not a multiple of 8";
  return nullptr;
}

void plain(const QkRopeKvArgs& args, const float*, Range) { reference::qk_rope_kv(args); }

constexpr QkRopeKvTable::Entry kCandidates[] = {
#if defined(__x86_64__)
    {"qk_rope_kv_avx512", reject_vector<Isa::avx512>, qk_rope_kv_rows<Avx512>},
    {"qk_rope_kv_avx2", reject_vector<Isa::avx2>, qk_rope_kv_rows<Avx2>},
#endif
    {"qk_rope_kv_reference", [](const QkRopeKvProblem&) -> const char* { return nullptr; }, plain},
};
constexpr QkRopeKvTable kTable{"qk_rope_kv", kCandidates};

}  // namespace

RopeCache::RopeCache() {
  for (Table& table : tables_) {
    table.key.memory = LazyMemory(kKeyBytes);
    table.values = LazyMemory(kTableBytes);
  }
}

bool RopeCache::matches(const Key& key, const QkRopeKvArgs& args) const {
  if (key.rotary_dim != args.rotary_dim || key.tokens != args.q.rows || key.magnitude != args.rope_magnitude)
    return false;
  const size_t frequency_bytes = sizeof(float) * (args.rotary_dim / 2);
  return std::memcmp(key.memory.data(), args.inv_freq, frequency_bytes) == 0 &&
         std::memcmp(key.memory.data() + frequency_bytes, args.batch.positions, sizeof(int32_t) * key.tokens) == 0;
}

const float* RopeCache::find_or_make(const QkRopeKvArgs& args) {
  for (const Table& table : tables_)
    if (matches(table.key, args)) return reinterpret_cast<const float*>(table.values.data());
  const size_t frequency_bytes = sizeof(float) * (args.rotary_dim / 2);
  const size_t position_bytes = sizeof(int32_t) * args.q.rows;
  if (frequency_bytes + position_bytes > kKeyBytes) return nullptr;
  if (sizeof(float) * args.q.rows * args.rotary_dim > kTableBytes) return nullptr;

  Table& table = tables_[next_];
  next_ = (next_ + 1) % static_cast<int>(tables_.size());
  std::memcpy(table.key.memory.data(), args.inv_freq, frequency_bytes);
  std::memcpy(table.key.memory.data() + frequency_bytes, args.batch.positions, position_bytes);
  table.key.rotary_dim = args.rotary_dim;
  table.key.tokens = args.q.rows;
  table.key.magnitude = args.rope_magnitude;
  auto* values = reinterpret_cast<float*>(table.values.data());
  fill_table(args, {0, args.q.rows}, values);
  return values;
}

const QkRopeKvTable& qk_rope_kv_table() { return kTable; }

std::string_view run_qk_rope_kv(const CpuContext& context, RopeCache& cache, const QkRopeKvArgs& args) {
  const auto& kernel = kTable.select({context.isa, args.head_dim, args.cache.block_size});
  const int64_t tokens = args.q.rows;
  if (tokens == 0) return kernel.name;
  if (kernel.launch == plain) {
    plain(args, nullptr, {0, tokens});
    return kernel.name;
  }
  const float* table = cache.find_or_make(args);
  if (!table)
    fail(ErrorCode::unsupported, "a batch of ", tokens, " tokens is too large for the CPU backend's RoPE table");
  for_ranges(context, tokens, tokens * (args.q.cols + 2 * args.k.cols),
             [&](Range range) { kernel.launch(args, table, range); });
  return kernel.name;
}

}  // namespace imp::cpu
