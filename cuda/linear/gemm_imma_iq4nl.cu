#include "linear/gemm_imma.cuh"
#include "linear/imma_nibbles.cuh"

namespace imp::cuda {
namespace {
template <int kBlocks>
using Format = FormatNibbles<NibbleIQ4NL, kBlocks>;
}  // namespace

const ImmaKernel imma_iq4nl = imma_kernel<Format>(PackedLayout::kIQ4NL, {.cheap = true});

}  // namespace imp::cuda
