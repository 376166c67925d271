#include "linear/gemm_imma.cuh"

namespace imp::cuda {

const char* imma_reject_groups(int tile, int64_t max_shared_bytes) {
  return imma_reject_with<FormatGroups>(tile, max_shared_bytes);
}
void gemm_imma_groups(int tile, const LinearArgs& args, const ImmaScratch& scratch, const LaunchContext& context) {
  launch_imma<FormatGroups>(tile, args, scratch, context);
}

}  // namespace imp::cuda
