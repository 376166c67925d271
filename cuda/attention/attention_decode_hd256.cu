#include "attention/attention_decode.cuh"

namespace imp::cuda {

DecodeKernel decode_kernel_hd256(int row_tiles, int) {  // always 4 warps
  return row_tiles == 1 ? attention_decode_kernel<256, 1, 4> : attention_decode_kernel<256, 2, 4>;
}

}  // namespace imp::cuda
