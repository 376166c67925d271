#include "linear/gemv_kernel.cuh"

namespace imp::cuda {

void gemv_dp4a_q4k(const GemvArgs& args, const LaunchContext& context) {
  launch_gemv_tokens<RingQ4K, RingQ4K, InputInt8, 2, 4>("gemv_dp4a", args, context);
}

}  // namespace imp::cuda
