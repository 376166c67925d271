#include "attention/attention_wgmma.cuh"

namespace imp::cuda {

void attention_wgmma_hd64(const AttentionArgs& args, const LaunchContext& context) {
  launch_attention_wgmma<64, WgmmaTiles<64, 128, 2>>(args, context);
}

}  // namespace imp::cuda
