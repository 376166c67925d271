#include "linear/gemm_imma.cuh"
#include "linear/imma_five_bits.cuh"

namespace imp::cuda {

const ImmaKernel imma_q5_1 = imma_kernel<FormatQ5_1>(PackedLayout::kQ5_1);

}  // namespace imp::cuda
