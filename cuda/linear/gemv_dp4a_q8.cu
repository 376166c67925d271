#include "linear/gemv_dp4a.cuh"

namespace imp::cuda {

int gemv_dp4a_shared_bytes(int cols, int tokens) { return gemv_token_bytes(cols) * tokens; }

void gemv_dp4a_q8(const GemvArgs& args, const LaunchContext& context) { launch_gemv_tokens<CodecQ8, 2>(args, context); }

}  // namespace imp::cuda
