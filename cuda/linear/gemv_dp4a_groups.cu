#include "linear/gemv_kernel.cuh"

namespace imp::cuda {

void gemv_dp4a_groups(const GemvArgs& args, const LaunchContext& context) {
  launch_gemv_tokens<RingGroups, RingGroups, InputInt8, 1, 4>("gemv_dp4a", args, context);
}

}  // namespace imp::cuda
