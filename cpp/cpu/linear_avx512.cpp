#include "cpu/linear_simd.h"

namespace imp::cpu {

const LinearKernelSet& linear_kernels_avx512() {
  static constexpr LinearKernelSet kSet = make_kernel_set();
  return kSet;
}

}  // namespace imp::cpu
