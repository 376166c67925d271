#include "linear/gemm_imma.cuh"
#include "linear/imma_nibbles.cuh"

namespace imp::cuda {
namespace {
template <int kBlocks>
using Format = FormatNibbles<NibbleMXFP4, kBlocks>;
}  // namespace

const ImmaKernel imma_mxfp4 = imma_kernel<Format>(PackedLayout::kMXFP4, {.cheap = true});

}  // namespace imp::cuda
