#include "device/ring_five_bits.cuh"
#include "linear/gemv_kernel.cuh"

namespace imp::cuda {

void gemv_dp4a_q5_1(const GemvArgs& args, const LaunchContext& context) {
  launch_gemv_rare<RingQ5<true>, RingQ5<true>, InputInt8, 2, 3>("gemv_dp4a", args, context);
}

}  // namespace imp::cuda
