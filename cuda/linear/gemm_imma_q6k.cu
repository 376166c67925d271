#include "linear/gemm_imma.cuh"

namespace imp::cuda {

const char* imma_reject_q6k(int tile, int64_t max_shared_bytes) {
  return imma_reject_with<FormatQ6K>(tile, max_shared_bytes);
}
void gemm_imma_q6k(int tile, const LinearArgs& args, const ImmaScratch& scratch, const LaunchContext& context) {
  launch_imma<FormatQ6K>(tile, args, scratch, context);
}

}  // namespace imp::cuda
