#include "attention/attention_decode.cuh"

namespace imp::cuda {

DecodeKernel decode_kernel_hd64(int row_tiles, int warps) { return decode_kernel<64>(row_tiles, warps); }

}  // namespace imp::cuda
