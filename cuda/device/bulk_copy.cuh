#pragma once
#include "device/mbarrier.cuh"

namespace imp::cuda {

/// `bytes` (a multiple of 16) in a row from global to shared memory by the copy engine (sm_90), both on 16 bytes;
/// `barrier` was told of them.
__device__ __forceinline__ void bulk_copy(void* shared, const void* global, uint32_t bytes, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(shared)),
               "l"(global), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}

}  // namespace imp::cuda
