#include "device/ring_few_bits.cuh"
#include "linear/gemv_kernel.cuh"

namespace imp::cuda {

void gemv_dp4a_q2k(const GemvArgs& args, const LaunchContext& context) {
  launch_gemv_rare<RingQ2K, RingQ2K, InputInt8, 2, 6>("gemv_dp4a", args, context);
}

}  // namespace imp::cuda
