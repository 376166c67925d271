#include "device/nibble_codec.cuh"
#include "linear/gemv_kernel.cuh"

namespace imp::cuda {

void gemv_dp4a_q4_0(const GemvArgs& args, const LaunchContext& context) {
  using Ring = RingNibbles<NibbleQ4_0>;
  launch_gemv_rare<Ring, Ring, InputInt8, 2, 4>("gemv_dp4a", args, context);
}

}  // namespace imp::cuda
