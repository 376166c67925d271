#include "attention/attention_decode.cuh"
#include "attention/attention_mma.cuh"

namespace imp::cuda {

void attention_tiled_hd256(const AttentionArgs& args, const LaunchContext& context) {
  launch_attention_mma<MmaTiles<256, 32, 8, 1>>("attention_tiled", args, context);
}
void attention_decode_hd256(const AttentionArgs& args, int num_splits, const AttentionScratch& scratch,
                            const LaunchContext& context) {
  launch_attention_decode<256>(args, num_splits, scratch, context);
}

}  // namespace imp::cuda
