#include "linear/gemm_imma.cuh"
#include "linear/imma_nibbles.cuh"

namespace imp::cuda {
namespace {
template <int kBlocks>
using Format = FormatNibbles<NibbleIQ4NL, kBlocks>;
}  // namespace

const char* imma_reject_iq4nl(int tile, int64_t max_shared_bytes) {
  return imma_reject_with<Format>(tile, max_shared_bytes);
}
void gemm_imma_iq4nl(int tile, const LinearArgs& args, const ImmaScratch& scratch, const LaunchContext& context) {
  launch_imma<Format>(tile, args, scratch, context);
}

}  // namespace imp::cuda
