#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "backend/linear_ops.h"

namespace imp::cuda {

/// One product of a prefill: y (+)= h[first_token, first_token + tokens) * W^T, W the rows of all `parts` one after
/// another.
struct PrefillProduct {
  std::span<const LinearOutput> parts;
  int64_t first_token, tokens;
  void* y;
  int64_t y_stride;  // elements
  DType y_type;
  bool accumulate;

  int64_t rows() const {
    int64_t rows = 0;
    for (const LinearOutput& part : parts) rows += part.weight.rows;
    return rows;
  }
};

/// Rows [first, first + count) of a product's weight, part by part: use(weight, its first row, rows, their place among
/// the `count`).
template <class Use>
void for_parts(const PrefillProduct& product, int64_t first, int64_t count, const Use& use) {
  int64_t part_begin = 0;
  for (const LinearOutput& part : product.parts) {
    const int64_t begin = std::max(first, part_begin), end = std::min(first + count, part_begin + part.weight.rows);
    if (begin < end) use(part.weight, begin - part_begin, end - begin, begin - first);
    part_begin += part.weight.rows;
  }
}

/// What is around the products of a linear, whatever multiplies: outputs that lie side by side become one product where
/// `joins` says that their weights do, gate and up go through a buffer and the activation, biases are added.
struct PrefillProducts {
  std::function<bool(const LinearOutput&, const LinearOutput&)> joins;
  std::function<void(const PrefillProduct&)> multiply;
  std::optional<DType> gate_up_type = {};  // of gate and up before the activation; that of the result unless told
};
void run_prefill_products(const LinearContext& context, const LinearArgs& args, const PrefillProducts& with);

/// Bytes of LinearContext::gate_up for steps of that many tokens.
int64_t gate_up_bytes(int64_t max_tokens, int64_t max_intermediate);

}  // namespace imp::cuda
