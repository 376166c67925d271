#include "linear/gemv_nibbles.cuh"

namespace imp::cuda {

void gemv_dp4a_nvfp4(const GemvArgs& args, const LaunchContext& context) {
  launch_gemv_nibbles<NibbleNVFP4>(args, context);
}

}  // namespace imp::cuda
