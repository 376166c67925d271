#include "linear/gemv_kernel.cuh"

namespace imp::cuda {

// What the shallow instances need at most: no layout takes more than two rows of Q8_0.
int gemv_dp4a_shared_bytes(int cols, int tokens) {
  return gemv_ring_bytes<RingQ8, RingQ8, 2, kGemvShallow>() + InputInt8::token_bytes(cols) * tokens + kGemvPartialBytes;
}

int gemv_rows_shared_bytes(WeightFormat format, int cols, int tokens) {
  const int token = format == WeightFormat::f32 ? InputFloat<4>::token_bytes(cols) : InputFloat<8>::token_bytes(cols);
  return gemv_ring_bytes<RingRows<WeightFormat::f16>, RingRows<WeightFormat::f16>, 2, kGemvShallow>() + token * tokens +
         kGemvPartialBytes;
}

}  // namespace imp::cuda
