#include "linear/gemm_wgmma.cuh"

namespace imp::cuda {

WgmmaInstance wgmma_instance_q5k(int tile_tokens) { return wgmma_instance_of<WgmmaQ5K>(tile_tokens); }

}  // namespace imp::cuda
