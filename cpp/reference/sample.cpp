#include <limits>
#include <vector>

#include "reference/reference.h"
#include "sampling/row.h"

namespace imp::reference {

void sample(const SampleArgs& args) {
  for (int r = 0; r < args.num_rows; ++r) {
    const SampleRow& how = args.rows[r];
    const float* row = args.logits.row<float>(how.logits_row);
    std::vector<float> logits(row, row + args.logits.cols);
    const RowDamage damage = count_damage(logits);
    SampleResult result{.id = -1,
                        .num_nan = static_cast<int32_t>(damage.nan),
                        .num_inf = static_cast<int32_t>(damage.inf),
                        .num_neg_inf = static_cast<int32_t>(damage.neg_inf)};
    if (damage.nan == 0 && damage.inf == 0) {
      for (size_t i = 0; args.allowed && i < logits.size(); ++i)
        if ((args.allowed[i / 32] >> (i % 32) & 1) == 0) logits[i] = -std::numeric_limits<float>::infinity();
      result.id = argmax(logits);
    }
    args.ids[r] = result.id < 0 ? 0 : result.id;
    args.results[how.result] = result;
  }
}

}  // namespace imp::reference
