#include "attention/attention_decode.cuh"

namespace imp::cuda {

DecodeKernel decode_kernel_hd80(int row_tiles, int warps) { return decode_kernel<80>(row_tiles, warps); }

}  // namespace imp::cuda
