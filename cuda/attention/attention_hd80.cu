#include "attention/attention_decode.cuh"
#include "attention/attention_mma.cuh"

namespace imp::cuda {

void attention_tiled_hd80(const AttentionArgs& args, const LaunchContext& context) {
  launch_attention_mma<MmaTiles<80, 64, 4, 1>>("attention_tiled", args, context);
}
void attention_decode_hd80(const AttentionArgs& args, int num_splits, const AttentionScratch& scratch,
                           const LaunchContext& context) {
  launch_attention_decode<80>(args, num_splits, scratch, context);
}

}  // namespace imp::cuda
