#include "attention/attention_decode.cuh"
#include "attention/attention_mma.cuh"

namespace imp::cuda {

void attention_tiled_hd128(const AttentionArgs& args, const LaunchContext& context) {
  launch_attention_mma<MmaTiles<128, 32, 4, 2>>("attention_tiled", args, context);
}
void attention_decode_hd128(const AttentionArgs& args, int num_splits, const AttentionScratch& scratch,
                            const LaunchContext& context) {
  launch_attention_decode<128>(args, num_splits, scratch, context);
}

}  // namespace imp::cuda
