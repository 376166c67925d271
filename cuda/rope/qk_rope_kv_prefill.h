#pragma once
#include "ops/args.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// The same as qk_rope_kv() for steps of many tokens; null, or why it cannot: then qk_rope_kv() does it.
const char* reject_qk_rope_kv_prefill(const QkRopeKvArgs& args);
void qk_rope_kv_prefill(const QkRopeKvArgs& args, int num_heads, const LaunchContext& context);

}  // namespace imp::cuda
