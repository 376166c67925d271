#include "linear/gemv_mma.cuh"

namespace imp::cuda {

void gemv_mma_q8(const LinearArgs& linear, const GemvArgs& args, const ImmaScratch& scratch,
                 const LaunchContext& context) {
  launch_gemv_mma<MmaQ8>(linear, args, scratch, context);
}

}  // namespace imp::cuda
