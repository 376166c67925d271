#pragma once
#include <cuda.h>

#include "linear/fused_gemm.h"

namespace imp::cuda {

struct WgmmaInstance {
  void (*kernel)(FusedGemmParams, CUtensorMap);
  int threads, shared_bytes;
};

// One file each: a codec with tiles of 128 and 256 tokens.
WgmmaInstance wgmma_instance_q8(int tile_tokens);
WgmmaInstance wgmma_instance_q4k(int tile_tokens);
WgmmaInstance wgmma_instance_q5k(int tile_tokens);
WgmmaInstance wgmma_instance_q6k(int tile_tokens);

}  // namespace imp::cuda
