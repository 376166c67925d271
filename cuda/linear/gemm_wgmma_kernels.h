#pragma once
#include <cuda.h>

#include "linear/gemm_wgmma.h"
#include "linear/gemm_wgmma_work.h"

namespace imp::cuda {

/// What the kernels of gemm_wgmma.cuh take.
struct WgmmaParams {
  WgmmaOutput outputs[3];
  WgmmaWork work;
  int first_row_tile[3];  // of each output
  int num_outputs;
  int tokens, blocks_per_row;
  bool accumulate, gated, bf16_out, aligned_pairs;
  Activation activation;
  float* partial;
  int32_t* flags;
};

struct WgmmaInstance {
  void (*kernel)(WgmmaParams, CUtensorMap);
  int threads, shared_bytes;
};

// One file each: a codec with tiles of 128 and 256 tokens.
WgmmaInstance wgmma_instance_q8(int tile_tokens);
WgmmaInstance wgmma_instance_q4k(int tile_tokens);
WgmmaInstance wgmma_instance_q6k(int tile_tokens);
WgmmaInstance wgmma_instance_groups(int tile_tokens);

}  // namespace imp::cuda
