#include "linear/gemv_nibbles.cuh"

namespace imp::cuda {

void gemv_dp4a_iq4xs(const GemvArgs& args, const LaunchContext& context) {
  launch_gemv_nibbles<NibbleIQ4XS>(args, context);
}

}  // namespace imp::cuda
