#include "linear/gemm_imma.cuh"
#include "linear/imma_nibbles.cuh"

namespace imp::cuda {
namespace {
template <int kBlocks>
using Format = FormatNibbles<NibbleIQ4XS, kBlocks>;
}  // namespace

const ImmaKernel imma_iq4xs = imma_kernel<Format>(PackedLayout::kIQ4XS, {.cheap = true});

}  // namespace imp::cuda
