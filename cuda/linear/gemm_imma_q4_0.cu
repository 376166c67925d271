#include "linear/gemm_imma.cuh"
#include "linear/imma_nibbles.cuh"

namespace imp::cuda {
namespace {
template <int kBlocks>
using Format = FormatNibbles<NibbleQ4_0, kBlocks>;
}  // namespace

const ImmaKernel imma_q4_0 = imma_kernel<Format>(PackedLayout::kQ4_0, {.cheap = true});

}  // namespace imp::cuda
