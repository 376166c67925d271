#pragma once
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "reference/reference.h"
#include "support/compare.h"
#include "support/cuda_device.h"
#include "support/paged_batch.h"

namespace imp::test {

struct DecodeShape {
  int group, num_kv_heads, head_dim;
  int window = 0;
  float softcap = 0;
  float q_sigma = 1, k_sigma = 1;
  bool norms = true;
  int rotary_dim = 0;  // 0: head_dim
  RopePairing pairing = RopePairing::half_split;
};

/// A step of decoding, on host and device: rows of q, k and v, of which some channels are far larger than the others,
/// and a paged cache in which the slots of the new tokens still hold NaN.
class DecodeProblem {
 public:
  using Sequences = std::vector<PagedBatch::Sequence>;
  struct Result {
    std::vector<float> out;
    std::vector<uint16_t> k, v;
  };

  DecodeProblem(const DecodeShape& shape, Sequences sequences, Random& random)
      : shape_(shape), sequences_(sequences), paged_(std::move(sequences), shape.num_kv_heads, shape.head_dim, random) {
    if (shape_.rotary_dim == 0) shape_.rotary_dim = shape_.head_dim;
    paged_.fill(random, shape.k_sigma, 2.0f);
    q_cols_ = int64_t{shape.group} * shape.num_kv_heads * shape.head_dim;
    kv_cols_ = int64_t{shape.num_kv_heads} * shape.head_dim;
    rows_ = random.outlier_heavy(tokens(), stride(), shape.q_sigma);
    if (!shape.norms)
      for (float& x : rows_) x /= 16;
    q_norm_ = random.normals(shape.head_dim);
    k_norm_ = random.normals(shape.head_dim);
    for (int i = 0; i < shape_.rotary_dim / 2; ++i)
      inv_freq_.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(shape_.rotary_dim)));
    for (int s = 0; s < paged_.batch().num_sequences; ++s)
      for (int i = 1; i <= sequences_[static_cast<size_t>(s)].new_tokens; ++i)
        for (int h = 0; h < shape.num_kv_heads; ++h) {
          const int64_t at = paged_.offset(s, sequences_[static_cast<size_t>(s)].context - i, h);
          std::fill_n(paged_.k().begin() + at, shape.head_dim, uint16_t{0x7e00});
          std::fill_n(paged_.v().begin() + at, shape.head_dim, uint16_t{0x7e00});
        }
  }

  /// What the scalar reference gives. It sees the queries as the tensor cores do: scaled, then rounded to f16.
  Result reference() {
    std::vector<float> rows = rows_;
    const auto k = paged_.k(), v = paged_.v();
    Result result;
    result.out.assign(static_cast<size_t>(tokens() * q_cols_), std::numeric_limits<float>::quiet_NaN());
    QkRopeKvArgs rope = rope_args(rows.data(), q_norm_.data(), k_norm_.data(), inv_freq_.data());
    AttentionArgs args = attention_args(rope.q, result.out.data());
    rope.cache = args.cache = paged_.cache();
    rope.batch = args.batch = paged_.batch();
    reference::qk_rope_kv(rope);
    for (int64_t t = 0; t < tokens(); ++t)
      for (int64_t c = 0; c < q_cols_; ++c) {
        float& q = rope.q.row<float>(t)[c];
        q = f16_to_f32(f32_to_f16(q * scale()));
      }
    args.scale = 1;
    reference::attention(args);
    result.k = paged_.k(), result.v = paged_.v();
    paged_.k() = k, paged_.v() = v;
    return result;
  }

  /// op(rope args, attention args), in the device's memory.
  template <class Op>
  Result on_device(const Op& op) {
    const SequenceBatch host = paged_.batch();
    const auto sequences = static_cast<size_t>(host.num_sequences);
    const DeviceArray<float> rows(rows_), q_norm(q_norm_), k_norm(k_norm_), inv_freq(inv_freq_);
    const DeviceArray<float> out(
        std::vector<float>(static_cast<size_t>(tokens() * q_cols_), std::numeric_limits<float>::quiet_NaN()));
    const DeviceArray<uint16_t> k(paged_.k()), v(paged_.v());
    const DeviceArray<int32_t> starts({host.query_start, host.query_start + sequences + 1});
    const DeviceArray<int32_t> lengths({host.context_len, host.context_len + sequences});
    const DeviceArray<int32_t> tables(
        {host.block_tables, host.block_tables + sequences * static_cast<size_t>(host.block_table_stride)});
    const DeviceArray<int32_t> positions({host.positions, host.positions + tokens()});
    QkRopeKvArgs rope = rope_args(rows.data(), q_norm.data(), k_norm.data(), inv_freq.data());
    AttentionArgs args = attention_args(rope.q, out.data());
    rope.cache = {k.data(), v.data(), DType::f16, shape_.num_kv_heads, shape_.head_dim, PagedBatch::kBlockSize};
    rope.batch = host;
    rope.batch.query_start = starts.data(), rope.batch.context_len = lengths.data();
    rope.batch.block_tables = tables.data(), rope.batch.positions = positions.data();
    args.cache = rope.cache, args.batch = rope.batch;
    op(rope, args);
    return {out.download(), k.download(), v.download()};
  }

  /// "" or the row (token, head) that is furthest from `expected`, in lengths of the row.
  std::string worst(const std::vector<float>& expected, const std::vector<float>& found, double tolerance) const {
    double most = tolerance;
    std::string text;
    const auto hd = static_cast<size_t>(shape_.head_dim);
    for (size_t row = 0; row < expected.size() / hd; ++row) {
      double error = 0, norm = 0;
      for (size_t i = row * hd; i < (row + 1) * hd; ++i) {
        error += std::pow(double{found[i]} - expected[i], 2);
        norm += std::pow(double{expected[i]}, 2);
      }
      const double distance = std::sqrt(error / norm);
      if (distance <= most) continue;
      most = std::isnan(distance) ? INFINITY : distance;
      const size_t heads = static_cast<size_t>(q_cols_) / hd;
      text = cat("token ", row / heads, " head ", row % heads, ": off by ", distance, " of its length");
    }
    return text;
  }

  int64_t tokens() const { return paged_.tokens(); }
  int pairs() const { return paged_.batch().num_sequences * shape_.num_kv_heads; }
  const DecodeShape& shape() const { return shape_; }

 private:
  int64_t stride() const { return q_cols_ + 2 * kv_cols_; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)); }
  /// Rows of q, k and v lie in one row of the projections, as the decoder may have them.
  QkRopeKvArgs rope_args(float* rows, const float* q_norm, const float* k_norm, const float* inv_freq) const {
    return {.q = {rows, DType::f32, tokens(), q_cols_, stride()},
            .k = {rows + q_cols_, DType::f32, tokens(), kv_cols_, stride()},
            .v = {rows + q_cols_ + kv_cols_, DType::f32, tokens(), kv_cols_, stride()},
            .head_dim = shape_.head_dim,
            .q_norm = shape_.norms ? q_norm : nullptr,
            .k_norm = shape_.norms ? k_norm : nullptr,
            .norm_epsilon = 1e-6f,
            .pairing = shape_.pairing,
            .rotary_dim = shape_.rotary_dim,
            .inv_freq = inv_freq,
            .rope_magnitude = 1.25f,
            .cache = {},
            .batch = {}};
  }
  AttentionArgs attention_args(TensorView q, float* out) const {
    AttentionArgs args = {};
    args.q = q;
    args.out = f32_view(out, tokens(), q_cols_);
    args.num_heads = shape_.group * shape_.num_kv_heads;
    args.scale = scale();
    args.softcap = shape_.softcap;
    args.sliding_window = shape_.window;
    return args;
  }

  DecodeShape shape_;
  Sequences sequences_;
  PagedBatch paged_;
  int64_t q_cols_ = 0, kv_cols_ = 0;
  std::vector<float> rows_, q_norm_, k_norm_, inv_freq_;
};

}  // namespace imp::test
