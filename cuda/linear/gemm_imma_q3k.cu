#include "linear/gemm_imma.cuh"
#include "linear/imma_few_bits.cuh"

namespace imp::cuda {

const ImmaKernel imma_q3k = imma_kernel<FormatQ3K>(PackedLayout::kQ3K);

}  // namespace imp::cuda
