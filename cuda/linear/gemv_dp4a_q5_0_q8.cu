#include "device/ring_five_bits.cuh"
#include "linear/gemv_kernel.cuh"

namespace imp::cuda {

void gemv_dp4a_q5_0_q8(const GemvArgs& args, const LaunchContext& context) {  // one token
  launch_gemv<RingQ5<false>, RingQ8, InputInt8, 1, 1, 5>("gemv_dp4a", args, context);
}

}  // namespace imp::cuda
