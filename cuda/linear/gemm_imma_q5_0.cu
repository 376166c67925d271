#include "linear/gemm_imma.cuh"
#include "linear/imma_five_bits.cuh"

namespace imp::cuda {

const char* imma_reject_q5_0(int tile, int64_t max_shared_bytes) {
  return imma_reject_with<FormatQ5_0>(tile, max_shared_bytes);
}
void gemm_imma_q5_0(int tile, const LinearArgs& args, const ImmaScratch& scratch, const LaunchContext& context) {
  launch_imma<FormatQ5_0>(tile, args, scratch, context);
}

}  // namespace imp::cuda
