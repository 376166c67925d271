#include <algorithm>
#include <limits>
#include <vector>

#include "reference/reference.h"
#include "sampling/processors.h"
#include "sampling/row.h"
#include "sampling/sampler.h"

namespace imp::reference {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

void add_to_count(const SampleArgs& args, const SampleRow& row, int32_t token, int32_t amount) {
  if (row.counts >= 0 && token >= 0) args.counts[row.counts * args.logits.cols + token] += amount;
}

/// The logits after restrictions, bias and penalties.
std::vector<float> adjusted(const SampleArgs& args, const SampleRow& row, std::vector<float> logits) {
  const int64_t size = args.logits.cols;
  const uint32_t* allowed = args.allowed + row.mask * args.mask_words();
  const int32_t* counts = row.counts < 0 ? nullptr : args.counts + row.counts * size;
  const float* bias = row.bias < 0 ? nullptr : args.bias + row.bias * size;
  const Penalties penalties{row.repetition_penalty, row.frequency_penalty, row.presence_penalty};
  for (int64_t i = 0; i < size; ++i) {
    float& logit = logits[static_cast<size_t>(i)];
    if ((allowed[i / 32] >> (i % 32) & 1) == 0) {
      logit = -kInf;
      continue;
    }
    if (bias) logit += bias[i];
    if (counts && counts[i] > 0) logit = penalized(logit, counts[i], penalties);
  }
  return logits;
}

int32_t pick(const SampleRow& row, const std::vector<float>& logits) {
  const float max = summarize_row(logits).max;
  if (row.temperature == 0 || max == -kInf) return argmax(logits);
  const uint64_t seed = uint64_t{row.seed_high} << 32 | row.seed_low;
  const double uniform = counter_uniform(seed, row.stream, row.position);
  std::vector<float> weights(logits.size());
  const Filters filters{.top_k = row.top_k, .typical_p = 1, .top_p = row.top_p, .min_p = row.min_p};
  if (filters.any()) return draw(filtered_tokens(logits, row.temperature, filters, weights), uniform);
  const double total = softmax_weights(logits, max, row.temperature, weights);
  return draw(weights, total, uniform);
}

void describe(const SampleRow& row, const std::vector<float>& raw, SampleResult& result) {
  const double normalizer = log_sum_exp(raw);
  const auto logprob = [&](int32_t id) { return static_cast<float>(raw[static_cast<size_t>(id)] - normalizer); };
  const float own = raw[static_cast<size_t>(result.id)];
  result.logprob = logprob(result.id);
  result.rank = 1 + static_cast<int32_t>(std::count_if(raw.begin(), raw.end(), [&](float x) { return x > own; }));
  for (int32_t id : largest(raw, row.logprobs)) {
    result.top_ids[result.num_top] = id;
    result.top_logprobs[result.num_top++] = logprob(id);
  }
}

}  // namespace

void sample(const SampleArgs& args) {
  for (int r = 0; r < args.num_rows; ++r) {
    const SampleRow& row = args.rows[r];
    const float* data = args.logits.row<float>(row.logits_row);
    const std::vector<float> raw(data, data + args.logits.cols);
    const RowDamage damage = count_damage(raw);
    SampleResult result;
    result.num_nan = static_cast<int32_t>(damage.nan);
    result.num_inf = static_cast<int32_t>(damage.inf);
    result.num_neg_inf = static_cast<int32_t>(damage.neg_inf);
    add_to_count(args, row, row.leaves, -1);
    if (damage.nan == 0 && damage.inf == 0) result.id = pick(row, adjusted(args, row, raw));
    if (result.id >= 0 && row.logprobs >= 0) describe(row, raw, result);
    add_to_count(args, row, result.id, 1);
    args.ids[r] = std::max(result.id, 0);
    args.results[row.result] = result;
  }
}

}  // namespace imp::reference
