#include "linear/gemv_mma.cuh"

namespace imp::cuda {

void gemv_mma_q4k_q6k(const LinearArgs& linear, const GemvArgs& args, const ImmaScratch& scratch,
                      const LaunchContext& context) {
  launch_gemv_mma<MmaQ4K, MmaQ6K>(linear, args, scratch, context);
}

}  // namespace imp::cuda
