#include "linear/gemm_wgmma.cuh"

namespace imp::cuda {

WgmmaInstance wgmma_instance_q6k(int tile_tokens) { return wgmma_instance_of<WgmmaQ6K>(tile_tokens); }

}  // namespace imp::cuda
