#include "attention/attention_decode.cuh"
#include "attention/attention_mma.cuh"

namespace imp::cuda {

void attention_tiled_hd32(const AttentionArgs& args, const LaunchContext& context) {
  launch_attention_mma<MmaTiles<32, 64, 8, 1>>("attention_tiled", args, context);
}
void attention_decode_hd32(const AttentionArgs& args, int num_splits, const AttentionScratch& scratch,
                           const LaunchContext& context) {
  launch_attention_decode<32>(args, num_splits, scratch, context);
}

}  // namespace imp::cuda
