#include "linear/gemm_imma.cuh"
#include "linear/imma_few_bits.cuh"

namespace imp::cuda {

const char* imma_reject_q3k(int tile, int64_t max_shared_bytes) {
  return imma_reject_with<FormatQ3K>(tile, max_shared_bytes);
}
void gemm_imma_q3k(int tile, const LinearArgs& args, const ImmaScratch& scratch, const LaunchContext& context) {
  launch_imma<FormatQ3K>(tile, args, scratch, context);
}

}  // namespace imp::cuda
