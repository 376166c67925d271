#include <cmath>

#include "reference/reference.h"

namespace imp::reference {

void softcap(const SoftcapArgs& args) {
  for (int64_t r = 0; r < args.x.rows; ++r) {
    float* x = args.x.row<float>(r);
    for (int64_t c = 0; c < args.x.cols; ++c)
      x[c] = static_cast<float>(args.cap * std::tanh(static_cast<double>(x[c]) / args.cap));
  }
}

}  // namespace imp::reference
