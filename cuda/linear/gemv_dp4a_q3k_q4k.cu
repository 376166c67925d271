#include "device/ring_few_bits.cuh"
#include "linear/gemv_kernel.cuh"

namespace imp::cuda {

void gemv_dp4a_q3k_q4k(const GemvArgs& args, const LaunchContext& context) {  // one token
  launch_gemv<RingQ3K, RingQ4K, InputInt8, 2, 1, 4>("gemv_dp4a", args, context);
}

}  // namespace imp::cuda
