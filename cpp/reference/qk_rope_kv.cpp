#include <cmath>

#include "core/half.h"
#include "reference/reference.h"

namespace imp::reference {
namespace {

void norm_head(float* head, const QkRopeKvArgs& args, const float* weight) {
  double sum_sq = 0;
  for (int d = 0; d < args.head_dim; ++d) sum_sq += static_cast<double>(head[d]) * head[d];
  const double scale = 1.0 / std::sqrt(sum_sq / args.head_dim + args.norm_epsilon);
  for (int d = 0; d < args.head_dim; ++d) head[d] = static_cast<float>(head[d] * scale * weight[d]);
}

void rotate_head(float* head, const QkRopeKvArgs& args, int position) {
  const int pairs = args.rotary_dim / 2;
  for (int i = 0; i < pairs; ++i) {
    const int first = args.pairing == RopePairing::half_split ? i : 2 * i;
    const int second = args.pairing == RopePairing::half_split ? i + pairs : 2 * i + 1;
    // The angle is an fp32 product in the models' own code too; at large positions that rounding is visible.
    const double angle = static_cast<float>(position) * args.inv_freq[i];
    const double cosine = std::cos(angle) * args.rope_magnitude, sine = std::sin(angle) * args.rope_magnitude;
    const double a = head[first], b = head[second];
    head[first] = static_cast<float>(a * cosine - b * sine);
    head[second] = static_cast<float>(b * cosine + a * sine);
  }
}

}  // namespace

int64_t kv_offset(const KvLayerView& cache, const SequenceBatch& batch, int sequence, int position, int kv_head) {
  const int32_t* table = batch.block_tables + static_cast<int64_t>(sequence) * batch.block_table_stride;
  const int64_t block = table[position / cache.block_size];
  return ((block * cache.num_kv_heads + kv_head) * cache.block_size + position % cache.block_size) * cache.head_dim;
}

void qk_rope_kv(const QkRopeKvArgs& args) {
  const int hd = args.head_dim;
  const int num_heads = static_cast<int>(args.q.cols / hd);
  for (int s = 0; s < args.batch.num_sequences; ++s) {
    for (int t = args.batch.query_start[s]; t < args.batch.query_start[s + 1]; ++t) {
      const int position = args.batch.positions[t];
      for (int h = 0; h < num_heads; ++h) {
        float* q = args.q.row<float>(t) + h * hd;
        if (args.q_norm) norm_head(q, args, args.q_norm);
        rotate_head(q, args, position);
      }
      for (int h = 0; h < args.cache.num_kv_heads; ++h) {
        float* k = args.k.row<float>(t) + h * hd;
        const float* v = args.v.row<float>(t) + h * hd;
        if (args.k_norm) norm_head(k, args, args.k_norm);
        rotate_head(k, args, position);
        const int64_t offset = kv_offset(args.cache, args.batch, s, position, h);
        for (int d = 0; d < hd; ++d) {
          static_cast<uint16_t*>(args.cache.k)[offset + d] = f32_to_f16(k[d]);
          static_cast<uint16_t*>(args.cache.v)[offset + d] = f32_to_f16(v[d]);
        }
      }
    }
  }
}

}  // namespace imp::reference
