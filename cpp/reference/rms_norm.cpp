#include <cmath>

#include "reference/reference.h"

namespace imp::reference {

void rms_norm(const RmsNormArgs& args) {
  const int64_t n = args.x.cols;
  for (int64_t t = 0; t < args.x.rows; ++t) {
    const float* x = args.x.row<float>(t);
    double sum_sq = 0;
    for (int64_t c = 0; c < n; ++c) sum_sq += static_cast<double>(x[c]) * x[c];
    const double scale = 1.0 / std::sqrt(sum_sq / static_cast<double>(n) + args.epsilon);
    for (int64_t c = 0; c < n; ++c) {
      const double y = x[c] * scale * args.weight[c];
      if (args.add_to.data)
        args.add_to.row<float>(t)[c] += static_cast<float>(y);
      else
        args.y.row<float>(t)[c] = static_cast<float>(y);
    }
  }
}

}  // namespace imp::reference
