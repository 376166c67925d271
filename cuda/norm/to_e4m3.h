#pragma once
#include "norm/elementwise.h"

namespace imp::cuda {

/// codes[t, :] = e4m3 of h[t, :] / scales[t], scales[t] = max |h[t, :]| / 448, h as in ToBf16Args (whose `out` is not
/// used). A row with a NaN or an infinity gets a scale that is none, so that all its products are. cols is a multiple
/// of 8, at most kE4m3MaxCols; rows of x start at multiples of 16 bytes.
inline constexpr int kE4m3MaxCols = 32768;
void to_e4m3(const ToBf16Args& args, void* codes, float* scales, const LaunchContext& context);

}  // namespace imp::cuda
