#pragma once
#include "model/spec.h"

namespace imp::cuda {

__device__ __forceinline__ float activate_device(Activation activation, float x) {
  if (activation == Activation::silu) return x / (1 + __expf(-x));
  return 0.5f * x * (1 + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

}  // namespace imp::cuda
