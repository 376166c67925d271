#pragma once
#include "attention/attention.h"
#include "ops/args.h"
#include "runtime/cublaslt.h"
#include "runtime/launch.h"

namespace imp::cuda {

/// Memory of cublas_decode(), enough for every layer of the model at its longest context.
struct CublasDecodeBuffer {
  void* data = nullptr;
  int64_t bytes = 0;
};
int64_t cublas_decode_bytes(int num_heads, int num_kv_heads, int head_dim, int64_t context_len);

/// Decode (one token a sequence) as library products over K and V gathered out of their pages, to check the paged
/// kernel with: nothing is shared with it but the inputs. See AttentionArgs and cublas_decode.cu. The sizes of the
/// products follow the longest context of the batch.
void cublas_decode(const AttentionArgs& args, const CublasDecodeBuffer& buffer, CublasLt& products,
                   const LaunchContext& context);

}  // namespace imp::cuda
