#include "linear/gemm_wgmma.cuh"

namespace imp::cuda {

WgmmaInstance wgmma_instance_q8(int tile_tokens) { return wgmma_instance_of<WgmmaQ8>(tile_tokens); }

}  // namespace imp::cuda
