#include "attention/attention_decode.cuh"

namespace imp::cuda {

DecodeKernel decode_kernel_hd96(int row_tiles, int warps) {
  if (warps == 4) return row_tiles == 1 ? attention_decode_kernel<96, 1, 4> : attention_decode_kernel<96, 2, 4>;
  return row_tiles == 1 ? attention_decode_kernel<96, 1, 8> : attention_decode_kernel<96, 2, 8>;
}

}  // namespace imp::cuda
