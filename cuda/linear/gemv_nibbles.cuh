#pragma once
#include "device/nibble_codec.cuh"
#include "linear/gemv_kernel.cuh"

namespace imp::cuda {

/// One token multiplies the codes as it takes them apart; more of them share that work. From three tokens on gemm_imma
/// comes first, so one instance does for all of these.
template <class Format>
void launch_gemv_nibbles(const GemvArgs& args, const LaunchContext& context) {
  using One = RingNibbles<Format>;
  using Many = RingNibblesOfMany<Format>;
  constexpr int kDepthOfTwo = Format::kScaleBytes > 2 ? 3 : 4;  // two blocks an SM with rows of 12288
  if (args.tokens == 1) return launch_gemv<One, One, InputInt8, 2, 1, 4>("gemv_dp4a", args, context);
  if (args.tokens == 2) return launch_gemv<Many, Many, InputInt8, 2, 2, kDepthOfTwo>("gemv_dp4a", args, context);
  launch_gemv<Many, Many, InputInt8, 2, 8, 4>("gemv_dp4a", args, context);
}

}  // namespace imp::cuda
