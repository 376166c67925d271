#include "linear/gemv_kernel.cuh"

namespace imp::cuda {

void gemv_rows_f32(const GemvArgs& args, const LaunchContext& context) {
  using Ring = RingRows<WeightFormat::f32>;
  launch_gemv_tokens<Ring, Ring, InputFloat<Ring::kPer>, 2, 2>("gemv_rows", args, context);
}

}  // namespace imp::cuda
