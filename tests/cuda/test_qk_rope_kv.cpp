#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "reference/reference.h"
#include "rope/qk_rope_kv.h"
#include "support/compare.h"
#include "support/cuda_device.h"
#include "support/few.h"
#include "support/paged_batch.h"

using namespace imp;
using namespace imp::test;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
// A rotation adds two products of about the same size, so errors are relative to the largest value of the head.
constexpr double kRelative = 4e-6;

struct Shape {
  int num_heads, num_kv_heads, head_dim, rotary_dim;
  RopePairing pairing;
  bool norms;
};

struct Result {
  std::vector<float> q;
  std::vector<uint16_t> k, v;
};

class Problem {
 public:
  Problem(const Shape& shape, std::vector<PagedBatch::Sequence> sequences, Random& random)
      : shape_(shape), paged_(std::move(sequences), shape.num_kv_heads, shape.head_dim, random) {
    paged_.fill(random, 1, 1);
    // Rows of q, k and v lie in one row of the projections, as the decoder may have them.
    q_cols_ = int64_t{shape.num_heads} * shape.head_dim, kv_cols_ = int64_t{shape.num_kv_heads} * shape.head_dim;
    stride_ = q_cols_ + 2 * kv_cols_;
    rows_ = random.outlier_heavy(paged_.tokens(), stride_);
    q_norm_ = random.normals(shape.head_dim);
    k_norm_ = random.normals(shape.head_dim);
    for (int i = 0; i < shape.rotary_dim / 2; ++i)
      inv_freq_.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(shape.rotary_dim)));
  }

  Result reference() {
    std::vector<float> rows = rows_;
    const auto k = paged_.k(), v = paged_.v();
    QkRopeKvArgs args = common(rows.data());
    args.q_norm = shape_.norms ? q_norm_.data() : nullptr, args.k_norm = shape_.norms ? k_norm_.data() : nullptr;
    args.inv_freq = inv_freq_.data();
    args.cache = paged_.cache();
    args.batch = paged_.batch();
    reference::qk_rope_kv(args);
    Result result{q_of(rows), paged_.k(), paged_.v()};
    paged_.k() = k, paged_.v() = v;
    return result;
  }

  Result on_device(TestDevice& device) {
    const SequenceBatch host = paged_.batch();
    const auto sequences = static_cast<size_t>(host.num_sequences);
    const DeviceArray<float> rows(rows_), q_norm(q_norm_), k_norm(k_norm_), inv_freq(inv_freq_);
    const DeviceArray<uint16_t> k(paged_.k()), v(paged_.v());
    const DeviceArray<int32_t> starts({host.query_start, host.query_start + sequences + 1});
    const DeviceArray<int32_t> tables(
        {host.block_tables, host.block_tables + sequences * static_cast<size_t>(host.block_table_stride)});
    const DeviceArray<int32_t> positions({host.positions, host.positions + paged_.tokens()});
    QkRopeKvArgs args = common(rows.data());
    args.q_norm = shape_.norms ? q_norm.data() : nullptr, args.k_norm = shape_.norms ? k_norm.data() : nullptr;
    args.inv_freq = inv_freq.data();
    args.cache = {k.data(), v.data(), DType::f16, shape_.num_kv_heads, shape_.head_dim, PagedBatch::kBlockSize};
    args.batch = host;
    args.batch.query_start = starts.data(), args.batch.block_tables = tables.data(),
    args.batch.positions = positions.data();
    cuda::qk_rope_kv(args, shape_.num_heads, device.context(true));
    return {q_of(rows.download()), k.download(), v.download()};
  }

  /// "" or a word about what differs: q, the keys, or the values, where a f16 may round the other way.
  std::string compare(const Result& expected, const Result& found) const {
    if (const std::string text = compare_heads(expected.q, found.q, 0); !text.empty()) return "q: " + text;
    if (const std::string text = compare_heads(widen(expected.k), widen(found.k), 0x1.01p-10); !text.empty())
      return "k: " + text;
    return expected.v == found.v ? "" : "v differs";
  }

 private:
  QkRopeKvArgs common(float* rows) const {
    const int64_t tokens = paged_.tokens();
    return {.q = {rows, DType::f32, tokens, q_cols_, stride_},
            .k = {rows + q_cols_, DType::f32, tokens, kv_cols_, stride_},
            .v = {rows + q_cols_ + kv_cols_, DType::f32, tokens, kv_cols_, stride_},
            .head_dim = shape_.head_dim,
            .q_norm = nullptr,
            .k_norm = nullptr,
            .norm_epsilon = 1e-6f,
            .pairing = shape_.pairing,
            .rotary_dim = shape_.rotary_dim,
            .inv_freq = nullptr,
            .rope_magnitude = 1.25f,
            .cache = {},
            .batch = {}};
  }
  std::vector<float> q_of(const std::vector<float>& rows) const {
    std::vector<float> q;
    for (int64_t t = 0; t < paged_.tokens(); ++t)
      q.insert(q.end(), rows.begin() + t * stride_, rows.begin() + t * stride_ + q_cols_);
    return q;
  }
  static std::vector<float> widen(const std::vector<uint16_t>& halves) {
    std::vector<float> values;
    for (uint16_t bits : halves) values.push_back(f16_to_f32(bits));
    return values;
  }
  /// Slots that nobody owns hold NaN in both.
  std::string compare_heads(const std::vector<float>& expected, const std::vector<float>& found,
                            double relative) const {
    const auto hd = static_cast<size_t>(shape_.head_dim);
    for (size_t begin = 0; begin < expected.size(); begin += hd) {
      double peak = 0;
      for (size_t i = begin; i < begin + hd; ++i)
        if (!std::isnan(expected[i])) peak = std::max(peak, std::abs(double{expected[i]}));
      const std::string text = difference(std::span(expected).subspan(begin, hd), std::span(found).subspan(begin, hd),
                                          {kRelative * peak, relative});
      if (!text.empty()) return cat("head at ", begin, ": ", text);
    }
    return "";
  }

  Shape shape_;
  PagedBatch paged_;
  int64_t q_cols_, kv_cols_, stride_;
  std::vector<float> rows_, q_norm_, k_norm_, inv_freq_;
};

}  // namespace

TEST_CASE("norm, rotation and cache slots equal the reference's") {
  Random random(1);
  TestDevice device;
  for (int head_dim : {16, 64, 80, 96, 128, 256, 320}) {
    for (RopePairing pairing : {RopePairing::half_split, RopePairing::interleaved}) {
      for (bool norms : {false, true}) {
        for (int rotary_dim : {head_dim, head_dim / 2}) {
          Problem problem({5, 3, head_dim, rotary_dim, pairing, norms},
                          {{1, 1}, {7, 40}, {1, 333}, {few(40, 9), 40}, {2, 17}}, random);
          CAPTURE(head_dim);
          CAPTURE(static_cast<int>(pairing));
          CAPTURE(norms);
          CAPTURE(rotary_dim);
          CHECK(problem.compare(problem.reference(), problem.on_device(device)) == "");
        }
      }
    }
  }
}

TEST_CASE("positions far out turn by the same angle") {
  Random random(2);
  TestDevice device;
  Problem problem({8, 2, 64, 64, RopePairing::interleaved, false}, {{3, 16384}, {1, 30001}}, random);
  CHECK(problem.compare(problem.reference(), problem.on_device(device)) == "");
}

TEST_CASE("one token, as decoding has it") {
  Random random(3);
  TestDevice device;
  for (int position : {0, 15, 16, 4095}) {
    Problem problem({32, 8, 128, 128, RopePairing::half_split, true}, {{1, position + 1}}, random);
    CAPTURE(position);
    CHECK(problem.compare(problem.reference(), problem.on_device(device)) == "");
  }
}

TEST_CASE("many tokens: another kernel, where it can; elsewhere the same") {
  Random random(4);
  for (int head_dim : {64, 80, 128, 256}) {
    for (RopePairing pairing : {RopePairing::half_split, RopePairing::interleaved}) {
      TestDevice device;
      Problem problem({16, 2, head_dim, head_dim, pairing, true}, {{70, 70}, {33, 1000}, {1, 5}}, random);
      CAPTURE(head_dim);
      CHECK(problem.compare(problem.reference(), problem.on_device(device)) == "");
      CHECK(device.launches["qk_rope_kv_prefill"] == (head_dim == 80 ? 0 : 1));
      CHECK(device.launches["qk_rope_kv"] == (head_dim == 80 ? 1 : 0));
    }
  }
}
