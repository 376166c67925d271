#include "ops/op_cost.h"

#include <algorithm>

namespace imp {
namespace {

double elements(const TensorView& view) { return static_cast<double>(view.rows) * static_cast<double>(view.cols); }

double bytes_of(const TensorView& view) { return elements(view) * dtype_bytes(view.dtype); }

}  // namespace

std::string_view op_class(LinearRole role) {
  switch (role) {
    case LinearRole::qkv: return "linear_qkv";
    case LinearRole::o: return "linear_o";
    case LinearRole::gate_up: return "linear_gate_up";
    case LinearRole::down: return "linear_down";
    case LinearRole::lm_head: return "linear_lm_head";
  }
  return "linear";
}

OpCost cost_of(const EmbedArgs& args) {
  const auto tokens = static_cast<double>(args.out.rows);
  return {tokens * row_bytes(args.table.format, args.table.cols) + 4 * elements(args.out), elements(args.out)};
}

OpCost cost_of(const RmsNormArgs& args) {
  return {4 * elements(args.x) * (args.add_to.data ? 3 : 2), 4 * elements(args.x)};
}

OpCost cost_of(const LinearArgs& args) {
  const auto tokens = static_cast<double>(args.tokens()), k = static_cast<double>(args.x.cols);
  OpCost cost{dtype_bytes(args.x.dtype) * tokens * k, 0};
  for (size_t i = 0; i < args.outputs.size(); ++i) {
    const WeightView& weight = args.outputs[i].weight;
    const auto n = static_cast<double>(weight.rows);
    cost.bytes += n * row_bytes(weight.format, weight.cols);
    const double written = dtype_bytes(args.outputs[i].y.dtype) * tokens * n;
    if (i == 0 || !args.gated) cost.bytes += written * (args.accumulate ? 2 : 1);
    cost.flops += 2 * tokens * n * k;
  }
  return cost;
}

OpCost cost_of(const QkRopeKvArgs& args) {
  const double q = elements(args.q), k = elements(args.k);
  return {8 * q + 4 * 2 * k + 2 * 2 * k, 6 * (q + k)};
}

OpCost cost_of(const AttentionArgs& args) {
  const SequenceBatch& batch = args.batch;
  double read = 0, pairs = 0;  // keys read at least once; (query, key) pairs
  for (int s = 0; s < batch.num_sequences; ++s) {
    const int begin = batch.query_start[s], end = batch.query_start[s + 1];
    if (begin == end) continue;
    const auto first = [&](int t) {
      return args.sliding_window > 0 ? std::max(0, batch.positions[t] - args.sliding_window + 1) : 0;
    };
    read += batch.positions[end - 1] + 1 - first(begin);
    for (int t = begin; t < end; ++t) pairs += batch.positions[t] + 1 - first(t);
  }
  const double kv_width = static_cast<double>(args.cache.num_kv_heads) * args.cache.head_dim;
  return {2 * 2 * read * kv_width + bytes_of(args.q) + bytes_of(args.out),
          4 * pairs * args.num_heads * args.cache.head_dim};
}

OpCost cost_of(const SoftcapArgs& args) { return {8 * elements(args.x), 10 * elements(args.x)}; }

OpCost cost_of(const SampleArgs& args) {
  const double values = static_cast<double>(args.num_rows) * static_cast<double>(args.logits.cols);
  return {4 * values, values};
}

}  // namespace imp
