#include "linear/gemm_imma.cuh"
#include "linear/imma_five_bits.cuh"

namespace imp::cuda {

const ImmaKernel imma_q5_0 = imma_kernel<FormatQ5_0>(PackedLayout::kQ5_0);

}  // namespace imp::cuda
