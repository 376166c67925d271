#include "linear/gemm_imma.cuh"

namespace imp::cuda {

const char* imma_reject_q4k(int tile, int64_t max_shared_bytes) {
  return imma_reject_with<FormatQ4K>(tile, max_shared_bytes);
}
void gemm_imma_q4k(int tile, const LinearArgs& args, const ImmaScratch& scratch, const LaunchContext& context) {
  launch_imma<FormatQ4K>(tile, args, scratch, context);
}

}  // namespace imp::cuda
