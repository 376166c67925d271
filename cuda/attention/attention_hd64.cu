#include "attention/attention_mma.cuh"

namespace imp::cuda {

void attention_tiled_hd64(const AttentionArgs& args, const LaunchContext& context) {
  launch_attention_mma<MmaTiles<64, 64, 4, 1>>("attention_tiled", args, context);
}

}  // namespace imp::cuda
