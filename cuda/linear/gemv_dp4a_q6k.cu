#include "linear/gemv_dp4a.cuh"

namespace imp::cuda {

void gemv_dp4a_q6k(const GemvArgs& args, const LaunchContext& context) {
  launch_gemv_tokens<CodecQ6K, 2>(args, context);
}

}  // namespace imp::cuda
