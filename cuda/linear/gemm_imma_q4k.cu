#include "linear/gemm_imma.cuh"

namespace imp::cuda {

const ImmaKernel imma_q4k = imma_kernel<FormatQ4K>(PackedLayout::kQ4K, {.cheap = true});

}  // namespace imp::cuda
