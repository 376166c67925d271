#include "linear/gemv_dp4a.cuh"

namespace imp::cuda {

void gemv_dp4a_groups(const GemvArgs& args, const LaunchContext& context) {
  launch_gemv_tokens<CodecGroups, 2>(args, context);
}

}  // namespace imp::cuda
