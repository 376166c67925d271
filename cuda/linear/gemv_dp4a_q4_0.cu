#include "linear/gemv_nibbles.cuh"

namespace imp::cuda {

void gemv_dp4a_q4_0(const GemvArgs& args, const LaunchContext& context) {
  launch_gemv_nibbles<NibbleQ4_0>(args, context);
}

}  // namespace imp::cuda
