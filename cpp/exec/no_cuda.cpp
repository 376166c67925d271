#include "exec/backend.h"

namespace imp {

std::string why_no_cuda(int) { return "this build of imp has no CUDA backend"; }

std::vector<CudaDevice> cuda_devices() { return {}; }

double cuda_read_bandwidth(int device) {
  fail(ErrorCode::unsupported, "cannot measure CUDA device ", device, ": ", why_no_cuda());
}

std::unique_ptr<Backend> make_cuda_backend(const BackendOptions&, int device) {
  fail(ErrorCode::unsupported, "cannot use CUDA device ", device, ": ", why_no_cuda(), "; use device \"cpu\"");
}

}  // namespace imp
