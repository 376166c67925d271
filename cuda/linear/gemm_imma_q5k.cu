#include "linear/gemm_imma.cuh"
#include "linear/imma_five_bits.cuh"

namespace imp::cuda {

const ImmaKernel imma_q5k = imma_kernel<FormatQ5K>(PackedLayout::kQ5K);

}  // namespace imp::cuda
