#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace imp {

/// What one pass over a row of logits tells.
struct RowSummary {
  float max = 0;                // -inf where no value is finite
  bool has_nan_or_inf = false;  // NaN or +inf; -inf is an ordinary value, a token that cannot be drawn
};
RowSummary summarize_row(std::span<const float> row);

/// An `internal` error that counts what is wrong with the row, or nothing.
void check_row(std::span<const float> row, int64_t position);

/// Values of a row that are not finite.
struct RowDamage {
  int64_t nan = 0, inf = 0, neg_inf = 0;
};
RowDamage count_damage(std::span<const float> row);
/// check_row() for a row of `size` values that somebody else counted.
void check_damage(const RowDamage& damage, int64_t size, int64_t position);

/// The largest value's index, the lowest of equals; -1 where all are -inf.
int32_t argmax(std::span<const float> row);

/// e^x for x <= 0, 0 below -87; at most 2 units in the last place off. Own arithmetic, so that draws do not depend on
/// the C library, and vectorizable.
float exp_of_negative(float x);

/// weights[i] = exp((row[i] - max) / temperature). Returns their sum.
double softmax_weights(std::span<const float> row, float max, float temperature, std::span<float> weights);

/// log(sum(exp(row))), stable, in double.
double log_sum_exp(std::span<const float> row);

/// Indices of the `count` largest values, largest first, the lower index first among equals; -inf never counts.
std::vector<int32_t> largest(std::span<const float> row, int count);

}  // namespace imp
