#pragma once
#include <cstdint>

namespace imp::cuda {

/// Thread block clusters (sm_90 and later): blocks that run together and write into each other's shared memory. On
/// older devices blocks are launched one by one and none of this is reached.

/// All threads of the cluster's blocks that have not left meet; what a thread wrote before arrive() is seen by all
/// after their wait(). Each arrive() needs its wait() before the next.
__device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
}
__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

/// Address of the same variable in the shared memory of the cluster's block `rank`.
__device__ __forceinline__ uint32_t cluster_address(const void* shared, int rank) {
  const auto own = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  uint32_t address = own;
#if __CUDA_ARCH__ >= 900
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(own), "r"(rank));
#endif
  return address;
}
__device__ __forceinline__ void cluster_store(uint32_t address, float4 value) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(value.x), "f"(value.y),
               "f"(value.z), "f"(value.w)
               : "memory");
#endif
}
__device__ __forceinline__ void cluster_store(uint32_t address, float2 value) {
#if __CUDA_ARCH__ >= 900
  asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(value.x), "f"(value.y) : "memory");
#endif
}

}  // namespace imp::cuda
