#include "linear/gemv_dp4a.cuh"

namespace imp::cuda {

void gemv_dp4a_q8(const GemvArgs& args, const LaunchContext& context) { launch_gemv_tokens<CodecQ8, 2>(args, context); }

}  // namespace imp::cuda
