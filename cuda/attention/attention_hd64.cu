#include "attention/attention_decode.cuh"
#include "attention/attention_prefill.cuh"

namespace imp::cuda {

void attention_prefill_hd64(const AttentionArgs& args, const LaunchContext& context) {
  launch_attention_prefill<64, 64>(args, context);
}
void attention_decode_hd64(const AttentionArgs& args, int num_splits, const AttentionScratch& scratch,
                           const LaunchContext& context) {
  launch_attention_decode<64>(args, num_splits, scratch, context);
}

}  // namespace imp::cuda
