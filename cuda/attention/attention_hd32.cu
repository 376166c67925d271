#include "attention/attention_mma.cuh"

namespace imp::cuda {

void attention_tiled_hd32(const AttentionArgs& args, const LaunchContext& context) {
  launch_attention_mma<MmaTiles<32, 64, 8, 1>>("attention_tiled", args, context);
}

}  // namespace imp::cuda
