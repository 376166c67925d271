#include "attention/attention_wgmma.cuh"

namespace imp::cuda {

void attention_wgmma_hd256(const AttentionArgs& args, const LaunchContext& context) {
  launch_attention_wgmma<256, WgmmaTiles<256, 64, 2>>(args, context);
}

}  // namespace imp::cuda
