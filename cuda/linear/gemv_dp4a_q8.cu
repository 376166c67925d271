#include "linear/gemv_kernel.cuh"

namespace imp::cuda {

void gemv_dp4a_q8(const GemvArgs& args, const LaunchContext& context) {
  launch_gemv_tokens<RingQ8, RingQ8, InputInt8, 1, 5>("gemv_dp4a", args, context);
}

}  // namespace imp::cuda
