#include <cuda_bf16.h>
#include <doctest/doctest.h>

#include <vector>

#include "core/half.h"
#include "device/tma.cuh"
#include "device/wgmma.cuh"
#include "runtime/tensor_map.h"
#include "support/cuda_device.h"
#include "support/random.h"

using namespace imp;
using namespace imp::cuda;
using namespace imp::test;

namespace {

/// d[64, kCols] = a[64, k] * b[kCols, k]^T, 64 of k at a time through the copy engine: the wrappers, and nothing else.
template <int kCols, bool kRegisters>
__global__ __launch_bounds__(128) void one_tile(const __grid_constant__ CUtensorMap a,
                                                const __grid_constant__ CUtensorMap b, int k, float* d) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) uint8_t shared[];
  __shared__ uint64_t full;
  uint8_t* tile_b = shared + 64 * 128;
  if (threadIdx.x == 0) mbarrier_init(&full, 1), mbarrier_init_fence();
  __syncthreads();
  float sums[kCols / 2];
  for (int step = 0; step * 64 < k; ++step) {
    if (threadIdx.x == 0) {
      mbarrier_arrive_expect(&full, (64 + kCols) * 128);
      tma_load(shared, &a, &full, step * 64, 0);
      tma_load(tile_b, &b, &full, step * 64, 0);
    }
    mbarrier_wait(&full, step % 2);
    uint32_t fragments[4][4];
    const int row = static_cast<int>(threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4);
    for (int part = 0; part < 4; ++part)
      for (int i = 0; i < 4; ++i) {
        const int r = row + i % 2 * 8, chunk = part * 2 + i / 2;
        fragments[part][i] =
            *reinterpret_cast<const uint32_t*>(shared + r * 128 + (chunk ^ (r % 8)) * 16 + threadIdx.x % 4 * 4);
      }
    wgmma_fence();
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      const bool accumulate = step > 0 || part > 0;
      const uint64_t columns = wgmma_descriptor(shared_address(tile_b)) + part * 2;
      if constexpr (kRegisters)
        wgmma_bf16(sums, fragments[part], columns, accumulate);
      else
        wgmma_bf16(sums, wgmma_descriptor(shared_address(shared)) + part * 2, columns, accumulate);
    }
    wgmma_commit();
    wgmma_wait<0>();
    __syncthreads();
  }
  const int row = static_cast<int>(threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4);
#pragma unroll
  for (int i = 0; i < kCols / 2; ++i)
    d[(row + i % 4 / 2 * 8) * kCols + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2] = sums[i];
#endif
}

std::vector<uint16_t> bf16_of(const std::vector<float>& values) {
  std::vector<uint16_t> bits;
  for (float value : values) bits.push_back(f32_to_bf16(value));
  return bits;
}

CUtensorMap map_of(const uint16_t* data, uint32_t rows, uint32_t box_rows, uint64_t k) {
  return make_tensor_map({data, true, {k, rows}, {k * 2}, {64, box_rows}});
}

template <int kCols, bool kRegisters>
void check_tile() {
  constexpr int64_t k = 136;  // the last copy reaches beyond the rows, and the last 3 columns are beyond the tensor
  constexpr int64_t cols = kCols - 3;
  Random random(kCols);
  TestDevice device;
  const std::vector<uint16_t> a = bf16_of(random.normals(64 * k)), b = bf16_of(random.normals(cols * k));
  const DeviceArray<uint16_t> device_a(a), device_b(b);
  const DeviceArray<float> device_d(std::vector<float>(64 * kCols, -1));
  launch(device.context(), "one_tile", one_tile<kCols, kRegisters>, 1, 128, (64 + kCols) * 128,
         map_of(device_a.data(), 64, 64, k), map_of(device_b.data(), cols, kCols, k), static_cast<int>(k),
         device_d.data());
  const std::vector<float> d = device_d.download();
  int64_t wrong = 0;
  for (int64_t row = 0; row < 64; ++row)
    for (int64_t col = 0; col < kCols; ++col) {
      double sum = 0, size = 0;
      for (int64_t c = 0; c < k && col < cols; ++c) {
        const double p = double(bf16_to_f32(a[row * k + c])) * bf16_to_f32(b[col * k + c]);
        sum += p, size += p < 0 ? -p : p;
      }
      wrong += !(std::abs(d[row * kCols + col] - sum) <= 1e-5 * size);
    }
  CHECK(wrong == 0);
}

bool is_hopper() {
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "cudaDeviceGetAttribute");
  return major == 9;
}

}  // namespace

TEST_CASE("one tile through the copy engine and the warpgroup instruction") {
  if (!is_hopper()) return;
  check_tile<64, false>();
  check_tile<128, false>();
  check_tile<256, false>();
  check_tile<64, true>();
  check_tile<128, true>();
  check_tile<256, true>();
}
