#pragma once
#include <cooperative_groups.h>

#include <cstdint>

#include "sample/draw_math.cuh"

// One row of logits, shared by a cluster of blocks: sums, selection and gathering over all of it. Every function is
// called by all threads of the cluster and gives all of them the same answer, unless it says otherwise.
//
// Each warp owns a contiguous piece of the row, the pieces in the order of blocks and warps: so that "the first so many
// in the order of ids" is a prefix of counts. Partial results are pushed into the shared memory of the other blocks;
// sums over blocks are taken in the order of blocks, and sums within a histogram are of integers, so that nothing
// depends on timing.

namespace imp::cuda {

constexpr int kClusterBlocks = 8;  // what every device with clusters can schedule
constexpr int kRowThreads = 512;
constexpr int kRowWarps = kRowThreads / 32;
constexpr int kBins = 2048;
constexpr int kListSize = 1024;
constexpr int kBatch = 8;  // values of a thread under way at once

using ListKey = unsigned long long;  // the complement of the value's ordered bits, then the id: ascending is best first

/// Where a cumulated quantity over bins reaches what was asked for.
struct Crossing {
  int bin;
  double before;  // sum over the bins before it
  double own;     // of the bin
};

struct RowMemory {
  unsigned count[kBins], low[kBins], high[kBins];  // this block's histogram; mantissas in two parts of 12 bits
  double row_count[kBins], row_mass[kBins];        // the whole row's
  ListKey list[kListSize];                         // of the first block
  float weights[kListSize];
  double prefix[kRowThreads + 1];
  alignas(16) unsigned char warp_parts[kRowWarps][32];
  alignas(16) unsigned char block_parts[2][kClusterBlocks][32];
  double warp_sums[kRowWarps];
  double block_sums[kClusterBlocks];
  unsigned list_size;
  int found, crossing_thread, last_bin;
  Crossing crossing;
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define IMP_ROW_CLUSTER
/// There are no clusters, and nobody calls these kernels; they only have to compile.
struct RowCluster {
  __device__ unsigned block_rank() const { return 0; }
  __device__ void sync() const {}
  template <class T>
  __device__ T* map_shared_rank(T* at, int) const {
    return at;
  }
};
__device__ inline RowCluster row_cluster() { return {}; }
#else
#define IMP_ROW_CLUSTER __cluster_dims__(kClusterBlocks, 1, 1)
using RowCluster = cooperative_groups::cluster_group;
__device__ inline RowCluster row_cluster() { return cooperative_groups::this_cluster(); }
#endif

struct ClusterRow {
  RowMemory& memory;
  RowCluster cluster;
  int block, warp, lane;
  int begin, end;  // the warp's piece
  int phase = 0;   // of block_parts

  __device__ ClusterRow(RowMemory& memory, int size)
      : memory(memory),
        cluster(row_cluster()),
        block(static_cast<int>(cluster.block_rank())),
        warp(static_cast<int>(threadIdx.x) / 32),
        lane(static_cast<int>(threadIdx.x) % 32) {
    const int piece = piece_of(size);
    begin = min((block * kRowWarps + warp) * piece, size);
    end = min(begin + piece, size);
  }

  /// Ids of one warp: whole words of the masks.
  __host__ __device__ static int piece_of(int size) {
    constexpr int kPieces = kClusterBlocks * kRowWarps;
    return ((size + kPieces - 1) / kPieces + 31) / 32 * 32;
  }

  template <class T>
  __device__ T* of_block(T* at, int rank) {
    return cluster.map_shared_rank(at, rank);
  }

  /// Calls f(i, values[i]) for the ids of the warp's piece. Loads go in batches, before f may store anything: the row
  /// comes from the L2 cache, whose latency is what there is to hide.
  template <class F>
  __device__ void for_each(const float* values, const F& f) {
    for (int base = begin; base < end; base += 32 * kBatch) {
      float x[kBatch];
#pragma unroll
      for (int u = 0; u < kBatch; ++u) x[u] = base + 32 * u + lane < end ? values[base + 32 * u + lane] : 0;
#pragma unroll
      for (int u = 0; u < kBatch; ++u)
        if (base + 32 * u + lane < end) f(base + 32 * u + lane, x[u]);
    }
  }

  /// The sum, by T::add, of what each thread has. T: whole words, at most 32 bytes.
  template <class T>
  __device__ T reduce(T value) {
    static_assert(sizeof(T) <= 32 && sizeof(T) % 4 == 0);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      T other;
      auto* to = reinterpret_cast<unsigned*>(&other);
      const auto* from = reinterpret_cast<const unsigned*>(&value);
#pragma unroll
      for (unsigned word = 0; word < sizeof(T) / 4; ++word) to[word] = __shfl_xor_sync(~0u, from[word], offset);
      value.add(other);
    }
    if (lane == 0) *reinterpret_cast<T*>(memory.warp_parts[warp]) = value;
    __syncthreads();
    if (threadIdx.x < kClusterBlocks) {
      T sum = *reinterpret_cast<const T*>(memory.warp_parts[0]);
      for (int w = 1; w < kRowWarps; ++w) sum.add(*reinterpret_cast<const T*>(memory.warp_parts[w]));
      *reinterpret_cast<T*>(of_block(&memory.block_parts[phase][block][0], static_cast<int>(threadIdx.x))) = sum;
    }
    cluster.sync();
    T total = *reinterpret_cast<const T*>(memory.block_parts[phase][0]);
    for (int b = 1; b < kClusterBlocks; ++b) total.add(*reinterpret_cast<const T*>(memory.block_parts[phase][b]));
    phase ^= 1;
    return total;
  }

  /// Fills row_count and, where asked for, row_mass: how many values of each bin there are, and their sum. bin_of(x)
  /// below 0 leaves a value out. All values of a bin have the exponent exponent_of(bin), so their mantissas add up
  /// exactly.
  template <class BinOf, class ExponentOf>
  __device__ void histogram(const float* values, const BinOf& bin_of, const ExponentOf& exponent_of, bool with_mass) {
    for (int bin = threadIdx.x; bin < kBins; bin += kRowThreads)
      memory.count[bin] = memory.low[bin] = memory.high[bin] = 0;
    __syncthreads();
    for_each(values, [&](int, float x) {
      const int bin = bin_of(x);
      if (bin < 0) return;
      atomicAdd(&memory.count[bin], 1u);
      if (!with_mass) return;
      const unsigned mantissa = (__float_as_uint(x) & 0x7fffffu) | 0x800000u;
      atomicAdd(&memory.low[bin], mantissa & 0xfffu);
      atomicAdd(&memory.high[bin], mantissa >> 12);
    });
    cluster.sync();
    // Each block adds up its share of the bins, and tells all.
    constexpr int kShare = kBins / kClusterBlocks;
    if (threadIdx.x < kShare) {
      const int bin = block * kShare + static_cast<int>(threadIdx.x);
      unsigned count = 0;
      unsigned long long mantissas = 0;
      for (int b = 0; b < kClusterBlocks; ++b) {
        count += *of_block(&memory.count[bin], b);
        if (!with_mass) continue;
        mantissas += *of_block(&memory.low[bin], b);
        mantissas += static_cast<unsigned long long>(*of_block(&memory.high[bin], b)) << 12;
      }
      double mass = 0;
      if (with_mass && count > 0)
        mass = static_cast<double>(mantissas) *
               __longlong_as_double(static_cast<long long>(exponent_of(bin) - 150 + 1023) << 52);
      for (int b = 0; b < kClusterBlocks; ++b) {
        *of_block(&memory.row_count[bin], b) = count;
        *of_block(&memory.row_mass[bin], b) = mass;
      }
    }
    cluster.sync();
  }

  /// The first bin at which `start` and the sum of `values` up to it reach `target` (`strict`: exceed it); the last bin
  /// that is not empty where rounding keeps all from it.
  __device__ Crossing find_crossing(const double* values, double start, double target, bool strict) {
    constexpr int kOwn = kBins / kRowThreads;
    const int first = static_cast<int>(threadIdx.x) * kOwn;
    const auto reached = [&](double sum) { return strict ? sum > target : sum >= target; };
    double sum = 0;
    int last = -1;
    for (int k = 0; k < kOwn; ++k) {
      sum += values[first + k];
      if (values[first + k] > 0) last = first + k;
    }
    double inclusive = sum;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const double other = __shfl_up_sync(~0u, inclusive, offset);
      if (lane >= offset) inclusive += other;
    }
    if (threadIdx.x == 0) memory.crossing_thread = kRowThreads, memory.last_bin = -1;
    if (lane == 31) memory.warp_sums[warp] = inclusive;
    __syncthreads();
    double before = start;
    for (int w = 0; w < warp; ++w) before += memory.warp_sums[w];
    memory.prefix[threadIdx.x + 1] = before + inclusive;
    if (threadIdx.x == 0) memory.prefix[0] = start;
    atomicMax(&memory.last_bin, last);
    __syncthreads();
    if (!reached(memory.prefix[threadIdx.x]) && reached(memory.prefix[threadIdx.x + 1]))
      atomicMin(&memory.crossing_thread, static_cast<int>(threadIdx.x));
    __syncthreads();
    const int owner = memory.crossing_thread < kRowThreads ? memory.crossing_thread : max(memory.last_bin, 0) / kOwn;
    if (static_cast<int>(threadIdx.x) == owner) {
      double cumulated = memory.prefix[threadIdx.x];
      int bin = max(last, 0);
      double at_bin = cumulated;
      for (int k = 0; k < kOwn; ++k) {
        const int b = first + k;
        if (values[b] > 0) {
          bin = b;
          at_bin = cumulated;
          if (reached(cumulated + values[b])) break;
        }
        cumulated += values[b];
      }
      memory.crossing = {bin, at_bin, values[bin]};
    }
    __syncthreads();
    const Crossing crossing = memory.crossing;
    __syncthreads();
    return crossing;
  }

  /// Sum of the row's values up to and with `bin`.
  __device__ double sum_through(const double* values, int bin) {
    double sum = 0;
    for (int b = static_cast<int>(threadIdx.x); b <= bin; b += kRowThreads) sum += values[b];
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    if (lane == 0) memory.warp_sums[warp] = sum;
    __syncthreads();
    sum = 0;
    for (int w = 0; w < kRowWarps; ++w) sum += memory.warp_sums[w];
    __syncthreads();
    return sum;
  }

  /// Collects all elements that belong(), with their ordered bits, in the first block's list, unordered; they are at
  /// most kListSize.
  template <class Belongs, class BitsOf>
  __device__ void gather(const float* values, const Belongs& belongs, const BitsOf& bits_of) {
    if (block == 0 && threadIdx.x == 0) memory.list_size = 0;
    cluster.sync();
    unsigned* size = of_block(&memory.list_size, 0);
    ListKey* list = of_block(&memory.list[0], 0);
    for_each(values, [&](int i, float x) {
      if (!belongs(i, x)) return;
      const unsigned at = atomicAdd(size, 1u);
      if (at < kListSize) list[at] = static_cast<ListKey>(~bits_of(x)) << 32 | static_cast<unsigned>(i);
    });
    cluster.sync();
  }

  /// Sorts the first block's list; the other blocks do nothing.
  __device__ void sort_list(int size) {
    if (block != 0) return;
    int padded = 32;
    while (padded < size) padded *= 2;
    for (int i = size + static_cast<int>(threadIdx.x); i < padded; i += kRowThreads) memory.list[i] = ~ListKey{0};
    __syncthreads();
    for (int width = 2; width <= padded; width *= 2) {
      for (int distance = width / 2; distance > 0; distance /= 2) {
        for (int pair = static_cast<int>(threadIdx.x); pair < padded / 2; pair += kRowThreads) {
          const int a = pair / distance * 2 * distance + pair % distance, b = a + distance;
          const bool ascending = (a & width) == 0;
          const ListKey x = memory.list[a], y = memory.list[b];
          if ((x > y) == ascending) memory.list[a] = y, memory.list[b] = x;
        }
        __syncthreads();
      }
    }
  }

  /// The id at which the sum of mass(x), in the order of ids, reaches `target_of(total)` (exceeds it); the last id with
  /// mass where rounding keeps it from that; -1 where there is no mass.
  template <class Mass, class Target>
  __device__ int find_by_id(const float* values, const Mass& mass, const Target& target_of) {
    double own = 0;
    for_each(values, [&](int, float x) { own += mass(x); });
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) own += __shfl_xor_sync(~0u, own, offset);
    if (lane == 0) memory.warp_sums[warp] = own;
    if (threadIdx.x == 0) memory.found = -1;
    __syncthreads();
    if (threadIdx.x < kClusterBlocks) {
      double sum = 0;
      for (int w = 0; w < kRowWarps; ++w) sum += memory.warp_sums[w];
      *of_block(&memory.block_sums[block], static_cast<int>(threadIdx.x)) = sum;
    }
    cluster.sync();
    double total = 0;
    for (int b = 0; b < kClusterBlocks; ++b) total += memory.block_sums[b];
    const double target = target_of(total);
    // The block, then the warp in whose piece the target is reached.
    double before = 0, reached = 0;
    int chosen = -1;
    for (int b = 0; b < kClusterBlocks && !(chosen >= 0 && reached > target); ++b) {
      if (memory.block_sums[b] > 0) chosen = b, before = reached;
      reached += memory.block_sums[b];
    }
    if (chosen == block) {
      int chosen_warp = -1;
      double warp_before = before, sum = before;
      for (int w = 0; w < kRowWarps && !(chosen_warp >= 0 && sum > target); ++w) {
        if (memory.warp_sums[w] > 0) chosen_warp = w, warp_before = sum;
        sum += memory.warp_sums[w];
      }
      if (chosen_warp == warp) scan_piece(values, mass, warp_before, target);
    }
    cluster.sync();
    const int id = *of_block(&memory.found, max(chosen, 0));
    cluster.sync();  // it may be written again
    return chosen < 0 ? -1 : id;
  }

  /// One warp: the id of its piece at which the sum exceeds the target, into memory.found.
  template <class Mass>
  __device__ void scan_piece(const float* values, const Mass& mass, double cumulated, double target) {
    int last = -1;
    bool reached = false;
    for (int base = begin; base < end && !reached; base += 32 * kBatch) {
      float x[kBatch];
#pragma unroll
      for (int u = 0; u < kBatch; ++u) x[u] = base + 32 * u + lane < end ? values[base + 32 * u + lane] : 0;
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
        if (reached) continue;  // the whole warp
        const int first = base + 32 * u;
        const double own = first + lane < end ? mass(x[u]) : 0;
        double inclusive = own;
#pragma unroll
        for (int offset = 1; offset < 32; offset *= 2) {
          const double other = __shfl_up_sync(~0u, inclusive, offset);
          if (lane >= offset) inclusive += other;
        }
        const unsigned over = __ballot_sync(~0u, own > 0 && cumulated + inclusive > target);
        const unsigned some = __ballot_sync(~0u, own > 0);
        if (some != 0) last = first + 31 - __clz(some);
        if (over != 0) last = first + __ffs(over) - 1;
        reached = over != 0;
        cumulated += __shfl_sync(~0u, inclusive, 31);
      }
    }
    if (lane == 0) memory.found = last;
  }
};

}  // namespace imp::cuda
