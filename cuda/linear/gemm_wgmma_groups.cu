#include "linear/gemm_wgmma.cuh"

namespace imp::cuda {

WgmmaInstance wgmma_instance_groups(int tile_tokens) { return wgmma_instance_of<WgmmaGroups>(tile_tokens); }

}  // namespace imp::cuda
