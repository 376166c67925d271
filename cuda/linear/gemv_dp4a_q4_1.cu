#include "linear/gemv_nibbles.cuh"

namespace imp::cuda {

void gemv_dp4a_q4_1(const GemvArgs& args, const LaunchContext& context) {
  launch_gemv_nibbles<NibbleQ4_1>(args, context);
}

}  // namespace imp::cuda
