#include "attention/attention_decode.cuh"

namespace imp::cuda {

DecodeKernel decode_kernel_hd96(int row_tiles, int warps) { return decode_kernel<96>(row_tiles, warps); }

}  // namespace imp::cuda
