#include "linear/gemv_kernel.cuh"

namespace imp::cuda {

// What the shallow instances need at most.
int gemv_dp4a_shared_bytes(int cols, int tokens) {
  return kGemvMostShallow + InputInt8::token_bytes(cols) * tokens + kGemvPartialBytes + kGemvStaticBytes;
}

int gemv_rows_shared_bytes(WeightFormat format, int cols, int tokens) {
  const int token = format == WeightFormat::f32 ? InputFloat<4>::token_bytes(cols) : InputFloat<8>::token_bytes(cols);
  return kGemvMostShallowRows + token * tokens + kGemvPartialBytes + kGemvStaticBytes;
}

}  // namespace imp::cuda
