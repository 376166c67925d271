#include "linear/gemv_kernel.cuh"

namespace imp::cuda {

void gemv_rows_bf16(const GemvArgs& args, const LaunchContext& context) {
  using Ring = RingRows<WeightFormat::bf16>;
  launch_gemv_tokens<Ring, Ring, InputFloat<Ring::kPer>, 2, 2>("gemv_rows", args, context);
}

}  // namespace imp::cuda
