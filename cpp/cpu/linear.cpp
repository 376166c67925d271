#include "cpu/linear.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cassert>

#include "core/error.h"
#include "cpu/linear_kernels.h"

namespace imp::cpu {
namespace {

constexpr int64_t kTileRows = 32;     // rows unpacked together: whole tiles of every kernel set
constexpr int64_t kTokenBlock = 512;  // tokens whose activations are in scratch at once
constexpr int64_t kSums = 1024;       // results of a unit before its epilogue
constexpr int64_t kTileTokens = kSums / kTileRows;
constexpr int64_t kMaxGemvRows = kSums / 4;

const LinearKernelSet& kernel_set(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return linear_kernels_avx512();
  if (isa == Isa::avx2) return linear_kernels_avx2();
#endif
  (void)isa;
  return linear_kernels_scalar();
}

bool uses_integers(LinearFamily family) { return family <= LinearFamily::mmq; }
bool uses_tiles(LinearFamily family, int64_t m) {
  if (family == LinearFamily::mmq || family == LinearFamily::gemm_dequant) return true;
  return family == LinearFamily::dequant_lm_head || (family == LinearFamily::reference && m > 1);
}

/// One output with what computes it.
struct OutputPlan {
  const LinearOutput* output;
  std::string_view name;
  LinearFamily family;
  const CommonKernels* common;
  const FormatKernels* kernels;
  bool tiles;
  int64_t unit_rows;
  int64_t units;

  WeightRows rows(int64_t begin, int64_t count) const {
    const WeightView& w = output->weight;
    const int64_t bytes = imp::row_bytes(w.format, w.cols);
    return {static_cast<const uint8_t*>(w.data) + begin * bytes, bytes, count, w.cols};
  }
};

/// Bytes of scratch, handed out in order.
class Carver {
 public:
  Carver(std::byte* begin, int64_t size) : begin_(begin), size_(size) {}
  template <class T>
  T* take(int64_t count) {
    const int64_t at = used_;
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return begin_ && used_ <= size_ ? reinterpret_cast<T*>(begin_ + at) : nullptr;
  }
  int64_t used() const { return used_; }

 private:
  std::byte* begin_;
  int64_t size_;
  int64_t used_ = 0;
};

/// Activations of a block of tokens in the two forms that kernels want.
struct Activations {
  float* rows;  // [tokens, padded_k]
  QuantizedRows quantized;
  int32_t* groups;  // of one token: those that are not all zero
  int64_t num_groups = 0;

  Activations(Carver& carver, int64_t tokens, int64_t k)
      : rows(carver.take<float>(tokens * padded_k(k))),
        quantized{carver.take<int8_t>(tokens * padded_k(k)), carver.take<float>(tokens * padded_k(k) / 32),
                  carver.take<float>(tokens * padded_k(k) / 32), carver.take<float>(tokens * padded_k(k) / 16),
                  padded_k(k)},
        groups(carver.take<int32_t>(padded_k(k) / kGroup)) {}
};

/// A worker's own memory.
struct WorkerScratch {
  std::array<float*, 2> sums;       // of the one or, gated, two outputs of a unit
  std::array<std::byte*, 2> tiles;  // kTileRows rows of each as codes or fp32

  WorkerScratch(Carver& carver, int64_t k) {
    for (float*& s : sums) s = carver.take<float>(kSums);
    for (std::byte*& t : tiles) t = carver.take<std::byte>(tile_bytes(k));
  }
  static int64_t tile_bytes(int64_t k) { return padded_k(k) * kTileRows * static_cast<int64_t>(sizeof(float)); }
};

int64_t worker_bytes(int64_t k) {
  Carver carver(nullptr, 0);
  WorkerScratch scratch(carver, k);
  Activations one(carver, 1, k);  // a single token is quantized by every worker for itself
  return carver.used();
}

/// One call of run_linear().
class LinearRun {
 public:
  LinearRun(const CpuContext& context, const LinearSwitches& switches, const LinearArgs& args, LinearLog& log)
      : context_(context), args_(args), log_(log), m_(args.tokens()), k_(args.x.cols) {
    plan(switches);
  }

  void run() {
    announce();
    for (int64_t begin = 0; begin < m_; begin += kTokenBlock) run_block(begin, std::min(kTokenBlock, m_ - begin));
  }

 private:
  void plan(const LinearSwitches& switches) {
    assert(!args_.outputs.empty() && args_.outputs.size() <= plans_.size());
    assert(!args_.gated || args_.outputs.size() == 2);
    int64_t total_rows = 0;
    for (const LinearOutput& output : args_.outputs) total_rows += output.weight.rows;
    for (const LinearOutput& output : args_.outputs) {
      const WeightView& w = output.weight;
      assert(w.cols == k_ && w.layout == 0);
      const LinearProblem problem = {context_.isa, args_.role, w.format, m_,
                                     w.rows,       k_,         switches, args_.skip_threshold > 0};
      const auto& entry = linear_table(w.format).select(problem, context_.force_linear);
      const LinearKernelSet& set = kernel_set(entry.launch.isa);
      OutputPlan& plan = plans_[num_plans_++];
      plan = {&output,
              entry.name,
              entry.launch.family,
              &set.common,
              &set.formats[static_cast<int>(w.format)],
              uses_tiles(entry.launch.family, m_),
              0,
              0};
      needs_integers_ = needs_integers_ || uses_integers(plan.family);
      plan.unit_rows = plan.tiles ? kTileRows : gemv_unit_rows(total_rows);
    }
    if (args_.gated) {  // both halves of a pair of rows belong to one unit
      plans_[0].unit_rows = plans_[1].unit_rows = std::min(plans_[0].unit_rows, plans_[1].unit_rows);
    }
    num_units_ = 0;
    for (int i = 0; i < (args_.gated ? 1 : num_plans_); ++i) {
      OutputPlan& plan = plans_[i];
      plan.units = (plan.output->weight.rows + plan.unit_rows - 1) / plan.unit_rows;
      num_units_ += plan.units;
    }
  }

  /// Several units a worker, so that one that lost its core for a while does not keep the others waiting.
  int64_t gemv_unit_rows(int64_t total_rows) const {
    const int64_t rows = total_rows / (context_.pool.num_threads() * 8) / 16 * 16;
    return std::clamp<int64_t>(rows, 16, kMaxGemvRows);
  }

  void announce() const {
    if (!log_.launched) return;
    for (int i = 0; i < num_plans_; ++i) {
      bool told = false;
      for (int j = 0; j < i; ++j) told = told || plans_[j].name == plans_[i].name;
      if (!told) log_.launched(plans_[i].name);
    }
  }

  void run_block(int64_t first, int64_t tokens) {
    Carver shared(context_.scratch.data(), static_cast<int64_t>(context_.scratch.size()));
    Activations batch(shared, tokens, k_);
    const int64_t each = worker_bytes(k_);
    const int threads = context_.pool.num_threads();
    if (shared.used() + each * threads > static_cast<int64_t>(context_.scratch.size())) {
      fail(ErrorCode::out_of_memory, "a linear of ", tokens, " tokens and ", k_, " features needs ",
           shared.used() + each * threads, " bytes of scratch, found ", context_.scratch.size());
    }
    next_unit_.store(0, std::memory_order_relaxed);
    const auto body = [&](int worker) {
      Carver own(context_.scratch.data() + shared.used() + worker * each, each);
      const WorkerScratch scratch(own, k_);
      if (m_ == 1) {
        Activations one(own, 1, k_);
        make_input(one, 0, 0);
        if (worker == 0) count_skipped(one);
        return run_units(one, scratch, 0, 1);
      }
      const Range share = share_of(tokens, worker, threads);
      for (int64_t t = share.begin; t < share.end; ++t) make_input(batch, first + t, t);
      context_.pool.barrier();
      run_units(batch, scratch, first, tokens);
    };
    context_.pool.run([&body](int worker) { body(worker); });  // one reference: std::function allocates nothing
  }

  /// Row `to` of the activations from token `token`.
  void make_input(Activations& activations, int64_t token, int64_t to) const {
    const CommonKernels& common = *plans_[0].common;
    const float* x = args_.x.row<float>(args_.row_indices ? args_.row_indices[token] : token);
    float* row = activations.rows + to * padded_k(k_);
    common.make_row(x, args_.norm_weight, args_.norm_epsilon, args_.skip_threshold, k_, row);
    if (!needs_integers_) return;
    const QuantizedRows quantized = activations.quantized.from(to);
    for (int i = 0; i < num_plans_; ++i) {
      if (!uses_integers(plans_[i].family)) continue;
      plans_[i].common->quantize(row, quantized);
      break;
    }
    if (m_ > 1 || args_.skip_threshold <= 0) return;
    for (int64_t g = 0; g < k_ / kGroup; ++g) {
      if (quantized.scale[g] != 0) activations.groups[activations.num_groups++] = static_cast<int32_t>(g);
    }
  }

  void count_skipped(const Activations& activations) {
    for (int i = 0; i < num_plans_; ++i) {
      if (plans_[i].family != LinearFamily::gemv_dp4a_skip) continue;
      const int64_t rows = plans_[i].output->weight.rows;
      log_.skippable_blocks += rows * (k_ / kGroup);
      log_.skipped_blocks += rows * (k_ / kGroup - activations.num_groups);
    }
  }

  void run_units(const Activations& x, const WorkerScratch& scratch, int64_t first, int64_t tokens) {
    for (;;) {
      int64_t unit = next_unit_.fetch_add(1, std::memory_order_relaxed);
      if (unit >= num_units_) return;
      int i = 0;
      while (unit >= plans_[i].units) unit -= plans_[i++].units;
      const int64_t row = unit * plans_[i].unit_rows;
      const int64_t rows = std::min(plans_[i].unit_rows, plans_[i].output->weight.rows - row);
      run_unit(i, row, rows, x, scratch, first, tokens);
    }
  }

  /// Rows [row, row + rows) of output i (gated: of both) for all tokens of the block.
  void run_unit(int i, int64_t row, int64_t rows, const Activations& x, const WorkerScratch& scratch, int64_t first,
                int64_t tokens) const {
    const int halves = args_.gated ? 2 : 1;
    for (int h = 0; h < halves; ++h) {
      if (plans_[i + h].tiles) unpack(plans_[i + h], row, rows, scratch.tiles[h]);
    }
    // Rows that do not share a unit's block of results for more than one token would overrun it.
    const int64_t step = std::min<int64_t>(tokens, kSums / std::max(kTileRows, plans_[i].unit_rows));
    for (int64_t t = 0; t < tokens; t += step) {
      const int64_t count = std::min(step, tokens - t);
      for (int h = 0; h < halves; ++h)
        compute(plans_[i + h], row, rows, x, t, count, scratch.tiles[h], scratch.sums[h]);
      for (int64_t j = 0; j < count; ++j) finish(i, row, rows, first + t + j, j, scratch);
    }
  }

  static int64_t sums_stride(const OutputPlan& plan) { return std::max(kTileRows, plan.unit_rows); }

  CodeTile code_tile(const OutputPlan& plan, std::byte* tiles, int64_t index) const {
    const int64_t lanes = plan.common->lanes;
    const int64_t codes = padded_k(k_) * lanes, scales = padded_k(k_) / 16 * lanes;
    std::byte* base = tiles + index * (codes + 2 * scales * static_cast<int64_t>(sizeof(float)));
    auto* scale = reinterpret_cast<float*>(base + codes);
    return {reinterpret_cast<uint8_t*>(base), scale, scale + scales};
  }
  float* f32_tile(const OutputPlan& plan, std::byte* tiles, int64_t index) const {
    return reinterpret_cast<float*>(tiles) + index * padded_k(k_) * plan.common->lanes;
  }

  void unpack(const OutputPlan& plan, int64_t row, int64_t rows, std::byte* tiles) const {
    const int64_t lanes = plan.common->lanes;
    for (int64_t r = 0; r < rows; r += lanes) {
      const WeightRows w = plan.rows(row + r, std::min(lanes, rows - r));
      if (plan.family == LinearFamily::mmq)
        plan.kernels->unpack_codes(w, code_tile(plan, tiles, r / lanes));
      else
        plan.kernels->unpack_f32(w, plan.family == LinearFamily::dequant_lm_head, f32_tile(plan, tiles, r / lanes));
    }
  }

  /// sums[j * stride + r] = row `row + r` . token `token + j` of the block
  void compute(const OutputPlan& plan, int64_t row, int64_t rows, const Activations& x, int64_t token, int64_t count,
               std::byte* tiles, float* sums) const {
    const int64_t stride = sums_stride(plan);
    if (plan.tiles) return compute_tiles(plan, rows, x, token, count, tiles, sums, stride);
    const WeightRows w = plan.rows(row, rows);
    switch (plan.family) {
      case LinearFamily::gemv_dp4a:
      case LinearFamily::mmvq:
        return plan.kernels->gemv_int(w, x.quantized.from(token), static_cast<int>(count), sums, stride);
      case LinearFamily::gemv_dp4a_skip: return plan.kernels->gemv_skip(w, x.quantized, x.groups, x.num_groups, sums);
      default: return plan.kernels->gemv_f32(w, x.rows + token * padded_k(k_), sums);
    }
  }

  void compute_tiles(const OutputPlan& plan, int64_t rows, const Activations& x, int64_t token, int64_t count,
                     std::byte* tiles, float* sums, int64_t stride) const {
    const int64_t lanes = plan.common->lanes;
    const int64_t num_tiles = (rows + lanes - 1) / lanes;
    for (int64_t i = 0; i < num_tiles; i += 2) {
      const int together = static_cast<int>(std::min<int64_t>(2, num_tiles - i));
      float* out = sums + i * lanes;
      if (plan.family == LinearFamily::mmq) {
        const CodeTile pair[2] = {code_tile(plan, tiles, i), code_tile(plan, tiles, i + 1)};
        plan.kernels->gemm_int(pair, together, k_, x.quantized.from(token), count, out, stride);
      } else {
        plan.common->gemm_f32(f32_tile(plan, tiles, i), together, k_, x.rows + token * padded_k(k_), padded_k(k_),
                              count, out, stride);
      }
    }
  }

  /// Scale, bias, activation and residual of one token's part of a unit, and the store.
  void finish(int i, int64_t row, int64_t rows, int64_t token, int64_t j, const WorkerScratch& scratch) const {
    const int halves = args_.gated ? 2 : 1;
    std::array<float*, 2> sums;
    for (int h = 0; h < halves; ++h) {
      const OutputPlan& plan = plans_[i + h];
      const LinearOutput& output = *plan.output;
      float* s = sums[h] = scratch.sums[h] + j * sums_stride(plan);
      if (output.weight.scale != 1.0f) {
        for (int64_t r = 0; r < rows; ++r) s[r] *= output.weight.scale;
      }
      if (output.bias) {
        for (int64_t r = 0; r < rows; ++r) s[r] += output.bias[row + r];
      }
    }
    float* y = plans_[i].output->y.row<float>(token) + row;
    if (args_.gated) plans_[i].common->activate(args_.activation, sums[0], sums[1], sums[0], rows);
    if (args_.accumulate) {
      for (int64_t r = 0; r < rows; ++r) y[r] += sums[0][r];
    } else {
      std::copy(sums[0], sums[0] + rows, y);
    }
  }

  const CpuContext& context_;
  const LinearArgs& args_;
  LinearLog& log_;
  const int64_t m_, k_;
  std::array<OutputPlan, 3> plans_ = {};
  int num_plans_ = 0;
  bool needs_integers_ = false;
  int64_t num_units_ = 0;
  alignas(64) std::atomic<int64_t> next_unit_{0};
};

}  // namespace

int64_t linear_scratch_bytes(int64_t m, int64_t k, int num_threads) {
  Carver carver(nullptr, 0);
  Activations batch(carver, std::min(m, kTokenBlock), k);
  return carver.used() + worker_bytes(k) * num_threads;
}

void run_linear(const CpuContext& context, const LinearSwitches& switches, const LinearArgs& args, LinearLog& log) {
  if (args.tokens() == 0) return;
  LinearRun(context, switches, args, log).run();
}

}  // namespace imp::cpu
