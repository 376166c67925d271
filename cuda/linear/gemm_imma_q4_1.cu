#include "linear/gemm_imma.cuh"
#include "linear/imma_nibbles.cuh"

namespace imp::cuda {
namespace {
template <int kBlocks>
using Format = FormatNibbles<NibbleQ4_1, kBlocks>;
}  // namespace

const ImmaKernel imma_q4_1 = imma_kernel<Format>(PackedLayout::kQ4_1, {.cheap = true});

}  // namespace imp::cuda
