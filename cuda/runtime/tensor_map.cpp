#include "runtime/tensor_map.h"

#include <cuda_runtime_api.h>

#include <algorithm>

#include "core/error.h"
#include "runtime/check.h"

namespace imp::cuda {
namespace {

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                            const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                            CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/// The driver's function, asked for at run time: nothing links to its library.
Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found),
        "cudaGetDriverEntryPoint");
  if (found != cudaDriverEntryPointSuccess || !function)
    fail(ErrorCode::unsupported, "this driver has no cuTensorMapEncodeTiled; one for CUDA 12 or later is needed");
  return reinterpret_cast<Encode>(function);
}

}  // namespace

CUtensorMap make_tensor_map(const TensorMapArgs& args) {
  static const Encode encode = find_encode();
  const auto rank = static_cast<cuuint32_t>(args.dims.size());
  cuuint64_t dims[5], strides[4];
  cuuint32_t box[5], steps[5] = {1, 1, 1, 1, 1};
  std::copy(args.dims.begin(), args.dims.end(), dims);
  std::copy(args.strides.begin(), args.strides.end(), strides);
  std::copy(args.box.begin(), args.box.end(), box);
  CUtensorMap map;
  const CUresult result =
      encode(&map, args.bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, rank,
             const_cast<void*>(args.data), dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    fail(ErrorCode::cuda, "cuTensorMapEncodeTiled failed with ", static_cast<int>(result), " for a tensor of rank ",
         rank, ", ", dims[0], " by ", rank > 1 ? dims[1] : 1, " elements, rows ", rank > 1 ? strides[0] : 0,
         " bytes apart");
  return map;
}

}  // namespace imp::cuda
