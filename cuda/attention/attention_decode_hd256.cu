#include "attention/attention_decode.cuh"

namespace imp::cuda {

DecodeKernel decode_kernel_hd256(int row_tiles, int warps) { return decode_kernel<256>(row_tiles, warps); }

}  // namespace imp::cuda
