#include "device/ring_few_bits.cuh"
#include "linear/gemv_kernel.cuh"

namespace imp::cuda {

void gemv_dp4a_q3k(const GemvArgs& args, const LaunchContext& context) {
  // Two tokens beside a ring this deep would leave no room for the next launch's blocks.
  if (args.tokens == 1) return launch_gemv<RingQ3K, RingQ3K, InputInt8, 2, 1, 6>("gemv_dp4a", args, context);
  if (args.tokens == 2) return launch_gemv<RingQ3K, RingQ3K, InputInt8, 2, 2, 5>("gemv_dp4a", args, context);
  launch_gemv<RingQ3K, RingQ3K, InputInt8, 2, 8, 5>("gemv_dp4a", args, context);
}

}  // namespace imp::cuda
