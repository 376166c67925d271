#include "attention/attention_wgmma.cuh"

namespace imp::cuda {

void attention_wgmma_hd128(const AttentionArgs& args, const LaunchContext& context) {
  launch_attention_wgmma<128, WgmmaTiles<128, 128, 2>>(args, context);
}

}  // namespace imp::cuda
