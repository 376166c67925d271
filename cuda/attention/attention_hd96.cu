#include "attention/attention_mma.cuh"

namespace imp::cuda {

void attention_tiled_hd96(const AttentionArgs& args, const LaunchContext& context) {
  launch_attention_mma<MmaTiles<96, 64, 4, 1>>("attention_tiled", args, context);
}

}  // namespace imp::cuda
