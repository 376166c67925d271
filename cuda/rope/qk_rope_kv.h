#pragma once
#include "ops/args.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// See QkRopeKvArgs. One warp a head of a token: norm in fp32, rotation with angles computed in place, k and v stored
/// as f16. Bytes moved: q twice, k and v once, and their f16 copies. Oracle: cpp/reference/qk_rope_kv.cpp.
void qk_rope_kv(const QkRopeKvArgs& args, int num_heads, const LaunchContext& context);

}  // namespace imp::cuda
