#include "linear/gemm_imma.cuh"

namespace imp::cuda {

const ImmaKernel imma_q6k = imma_kernel<FormatQ6K>(PackedLayout::kQ6K);

}  // namespace imp::cuda
