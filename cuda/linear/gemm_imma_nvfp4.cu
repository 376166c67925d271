#include "linear/gemm_imma.cuh"
#include "linear/imma_nibbles.cuh"

namespace imp::cuda {
namespace {
template <int kBlocks>
using Format = FormatNibbles<NibbleNVFP4, kBlocks>;
}  // namespace

const ImmaKernel imma_nvfp4 = imma_kernel<Format>(PackedLayout::kNVFP4);

}  // namespace imp::cuda
