#pragma once
#include "model/weights.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// out[r, :] = f16 of row r of a prepared weight, any layout: generation.lm_dequant_fp16, once at load. Counted as
/// "dequant_lm_head".
void dequantize_f16(const WeightView& weight, void* out, const LaunchContext& context);

}  // namespace imp::cuda
