#include "linear/gemv_nibbles.cuh"

namespace imp::cuda {

void gemv_dp4a_mxfp4(const GemvArgs& args, const LaunchContext& context) {
  launch_gemv_nibbles<NibbleMXFP4>(args, context);
}

}  // namespace imp::cuda
