#include "linear/gemm_imma.cuh"
#include "linear/imma_few_bits.cuh"

namespace imp::cuda {

const ImmaKernel imma_q2k = imma_kernel<FormatQ2K>(PackedLayout::kQ2K);

}  // namespace imp::cuda
