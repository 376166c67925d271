#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <string>

#include "runtime/check.h"

namespace imp::cuda {

/// What a launcher needs of the device, besides its args.
struct LaunchContext {
  cudaStream_t stream = nullptr;
  int num_sms = 0;
  int max_shared_bytes = 48 * 1024;                    // that a block of this device can have
  bool pdl = false;                                    // kernels wait and trigger themselves; this sets the attribute
  bool synchronous = false;                            // wait for each kernel, so that an error names the one it is of
  int max_cluster = 1;                                 // blocks of a cluster; 1: the device has none
  std::map<std::string, int64_t>* launches = nullptr;  // counted under the name given to launch()
  int64_t* pdl_launches = nullptr;                     // those with the attribute
};

/// Launches `kernel`, which may use more than 48 KiB of shared memory, in clusters of `cluster` blocks along x; throws
/// what went wrong.
template <class... Params, class... Args>
void launch_clusters(const LaunchContext& context, const char* name, void (*kernel)(Params...), dim3 grid, dim3 block,
                     unsigned cluster, size_t shared_bytes, const Args&... args) {
  // More than 48 KiB must be asked for, what the kernel declares itself (never 8 KiB) included.
  if (shared_bytes > 40 * 1024)
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          name);
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = context.stream;
  cudaLaunchAttribute attributes[2] = {};
  config.attrs = attributes;
  if (context.pdl) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {cluster, 1, 1};
    if (cluster > 8)  // more than every device with clusters must take
      check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeNonPortableClusterSizeAllowed,
                                 1),
            name);
  }
  check(cudaLaunchKernelEx(&config, kernel, Params(args)...), name);
  if (context.launches) ++(*context.launches)[name];
  if (context.pdl && context.pdl_launches) ++*context.pdl_launches;
  if (context.synchronous) check(cudaStreamSynchronize(context.stream), name);
}

template <class... Params, class... Args>
void launch(const LaunchContext& context, const char* name, void (*kernel)(Params...), dim3 grid, dim3 block,
            size_t shared_bytes, const Args&... args) {
  launch_clusters(context, name, kernel, grid, block, 1, shared_bytes, args...);
}

}  // namespace imp::cuda
