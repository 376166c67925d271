#include <algorithm>
#include <cmath>
#include <vector>

#include "core/half.h"
#include "reference/reference.h"

namespace imp::reference {
namespace {

/// One query head of one token over the keys [first, position].
void attend(const AttentionArgs& args, int sequence, int first, int position, int kv_head, const float* q, float* out) {
  const int hd = args.cache.head_dim;
  const auto* keys = static_cast<const uint16_t*>(args.cache.k);
  const auto* values = static_cast<const uint16_t*>(args.cache.v);
  std::vector<double> scores;
  for (int j = first; j <= position; ++j) {
    const uint16_t* k = keys + kv_offset(args.cache, args.batch, sequence, j, kv_head);
    double score = 0;
    for (int d = 0; d < hd; ++d) score += static_cast<double>(q[d]) * f16_to_f32(k[d]);
    score *= args.scale;
    if (args.softcap > 0) score = args.softcap * std::tanh(score / args.softcap);
    scores.push_back(score);
  }
  const double highest = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - highest);
  std::vector<double> mean(hd);
  for (int j = first; j <= position; ++j) {
    const uint16_t* v = values + kv_offset(args.cache, args.batch, sequence, j, kv_head);
    for (int d = 0; d < hd; ++d) mean[d] += scores[j - first] / sum * f16_to_f32(v[d]);
  }
  for (int d = 0; d < hd; ++d) out[d] = static_cast<float>(mean[d]);
}

}  // namespace

void attention(const AttentionArgs& args) {
  const int hd = args.cache.head_dim;
  const int group = args.num_heads / args.cache.num_kv_heads;
  for (int s = 0; s < args.batch.num_sequences; ++s) {
    for (int t = args.batch.query_start[s]; t < args.batch.query_start[s + 1]; ++t) {
      const int position = args.batch.positions[t];
      const int first = args.sliding_window > 0 ? std::max(0, position - args.sliding_window + 1) : 0;
      for (int h = 0; h < args.num_heads; ++h)
        attend(args, s, first, position, h / group, args.q.row<float>(t) + h * hd, args.out.row<float>(t) + h * hd);
    }
  }
}

}  // namespace imp::reference
