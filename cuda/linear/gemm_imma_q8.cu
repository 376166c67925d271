#include "linear/gemm_imma.cuh"

namespace imp::cuda {

const ImmaKernel imma_q8 = imma_kernel<FormatQ8>(PackedLayout::kQ8, {.cheap = true, .widest = 3});

}  // namespace imp::cuda
