#include "attention/attention_decode.cuh"

namespace imp::cuda {

DecodeKernel decode_kernel_hd80(int row_tiles, int warps) {
  if (warps == 4) return row_tiles == 1 ? attention_decode_kernel<80, 1, 4> : attention_decode_kernel<80, 2, 4>;
  return row_tiles == 1 ? attention_decode_kernel<80, 1, 8> : attention_decode_kernel<80, 2, 8>;
}

}  // namespace imp::cuda
