#include "attention/attention_mma.cuh"

namespace imp::cuda {

void attention_tiled_hd128(const AttentionArgs& args, const LaunchContext& context) {
  launch_attention_mma<MmaTiles<128, 32, 4, 2>>("attention_tiled", args, context);
}

}  // namespace imp::cuda
