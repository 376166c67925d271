#include "attention/attention_mma.cuh"

namespace imp::cuda {

void attention_fa2(const AttentionArgs& args, Fa2Sums sums, const LaunchContext& context) {
  if (args.q.rows == 0) return;
  switch (sums) {
    case Fa2Sums::fp32: return launch_attention_mma<MmaTiles<128, 64, 8, 1>>("attention_fa2", args, context);
    case Fa2Sums::f16_scores:
      return launch_attention_mma<MmaTiles<128, 64, 8, 1, true>>("attention_fa2_accf16", args, context);
    case Fa2Sums::f16:
      return launch_attention_mma<MmaTiles<128, 64, 8, 1, true, true>>("attention_fa2_accf16_pv", args, context);
  }
}

}  // namespace imp::cuda
