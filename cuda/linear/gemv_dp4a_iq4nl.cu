#include "linear/gemv_nibbles.cuh"

namespace imp::cuda {

void gemv_dp4a_iq4nl(const GemvArgs& args, const LaunchContext& context) {
  launch_gemv_nibbles<NibbleIQ4NL>(args, context);
}

}  // namespace imp::cuda
