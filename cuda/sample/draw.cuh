#pragma once
// What sample_filtered.cu draws with: the filters on a row's logits or weights, the token that a number between 0 and 1
// then says, and the log-probabilities that are asked for.
#include "sample/cluster_row.cuh"
#include "sample/sample_filtered.h"

namespace imp::cuda {

struct RowStats {
  unsigned long long best = 0;  // ordered bits of the adjusted logit, then the complement of its id; 0: none
  float raw_max = -INFINITY;
  int num_nan = 0, num_inf = 0, num_neg_inf = 0;
  int unused = 0;

  __device__ void add(const RowStats& other) {
    best = max(best, other.best);
    raw_max = fmaxf(raw_max, other.raw_max);
    num_nan += other.num_nan;
    num_inf += other.num_inf;
    num_neg_inf += other.num_neg_inf;
  }
};

struct MassAndCount {
  double mass = 0;
  int count = 0, unused = 0;
  __device__ void add(const MassAndCount& other) {
    mass += other.mass;
    count += other.count;
  }
};

/// Weights: 16 bins an octave downwards from 1, which all weights of this kernel are at most.
constexpr int kTopWeightBin = 0x3f800000 >> 19;
__device__ inline int weight_bin(float weight) {
  return kTopWeightBin - static_cast<int>(__float_as_uint(weight) >> 19);
}

struct Draw {
  ClusterRow& row;
  const SampleRow& how;
  float* values;  // [size]: adjusted logits, then weights
  int size;
  float max;
  double uniform;

  __device__ int from_logits();
  __device__ int from_weights();
  __device__ int from_ids();
  __device__ int from_list(int size, double total, bool by_weight);
};

/// Brings the `wanted` largest values of the row, and perhaps more, into the first block's list, sorted; gives their
/// number. -inf never counts. `max` is the largest.
__device__ inline int list_largest(ClusterRow& row, const float* values, float max, int wanted) {
  constexpr float kBinsPerUnit = 64;
  const auto coarse = [&](float x) {
    return x > -INFINITY ? min(kBins - 1, __float2int_rd(__fmul_rn(__fsub_rn(max, x), kBinsPerUnit))) : -1;
  };
  const auto no_exponent = [](int) { return 0; };
  row.histogram(values, coarse, no_exponent, false);
  Crossing crossing = row.find_crossing(row.memory.row_count, 0, wanted, false);
  const int boundary = crossing.bin;
  int size = static_cast<int>(crossing.before + crossing.own);
  if (size <= kListSize) {
    const auto belongs = [&](int, float x) {
      const int bin = coarse(x);
      return bin >= 0 && bin <= boundary;
    };
    row.gather(values, belongs, ordered_bits);
    row.sort_list(size);
    return min(size, wanted);
  }
  // Within the boundary's bin: by the bits of the values, 11 at a time.
  unsigned prefix = 0;
  int shift = 32;
  while (size > kListSize && shift > 0) {
    const int bits = min(11, shift), next = shift - bits;
    const unsigned mask = (1u << bits) - 1;
    row.histogram(
        values,
        [&](float x) {
          if (coarse(x) != boundary) return -1;
          const unsigned key = ordered_bits(x);
          if (shift < 32 && key >> shift != prefix) return -1;
          return static_cast<int>(mask - (key >> next & mask));
        },
        no_exponent, false);
    crossing = row.find_crossing(row.memory.row_count, crossing.before, wanted, false);
    prefix = (shift < 32 ? prefix << bits : 0u) | (mask - static_cast<unsigned>(crossing.bin));
    shift = next;
    size = static_cast<int>(crossing.before + crossing.own);
  }
  int last_tie = INT_MAX;
  if (size > kListSize) {  // equal values: the first of them by id
    const double ties = wanted - crossing.before;
    last_tie = row.find_by_id(
        values, [&](float x) { return coarse(x) == boundary && ordered_bits(x) == prefix ? 1.0 : 0.0; },
        [&](double) { return ties - 0.5; });
    size = wanted;
  }
  const auto belongs = [&](int i, float x) {
    const int bin = coarse(x);
    if (bin != boundary) return bin >= 0 && bin < boundary;
    const unsigned key = ordered_bits(x) >> shift;
    return key > prefix || (key == prefix && i <= last_tie);
  };
  row.gather(values, belongs, ordered_bits);
  row.sort_list(size);
  return min(size, wanted);
}

/// Sums of the first block's weights, a warp at a time; calls stop(index, weight, sum up to it) until it says true.
template <class Keep, class Stop>
__device__ inline void walk_list(const RowMemory& memory, int size, const Keep& keep, const Stop& stop) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  double cumulated = 0;
  for (int base = 0; base < size; base += 32) {
    const int i = base + lane;
    const float weight = i < size ? memory.weights[i] : 0;
    const double own = i < size && keep(weight) ? weight : 0;
    double inclusive = own;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const double other = __shfl_up_sync(~0u, inclusive, offset);
      if (lane >= offset) inclusive += other;
    }
    if (stop(base, own, cumulated + inclusive)) return;
    cumulated += __shfl_sync(~0u, inclusive, 31);
  }
}

/// Top-p (where asked for), min-p and the draw on the first block's sorted list; its other blocks give nonsense.
/// `total` is what top_p is a share of; below 0: the list's own.
__device__ inline int Draw::from_list(int count, double total, bool by_weight) {
  RowMemory& memory = row.memory;
  if (row.block != 0) return -1;
  const auto load_weights = [&](bool keys_are_weights) {
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kRowThreads) {
      const auto bits = ~static_cast<unsigned>(memory.list[i] >> 32);
      memory.weights[i] =
          keys_are_weights ? __uint_as_float(bits) : weight_of(from_ordered_bits(bits), max, how.temperature);
    }
    __syncthreads();
  };
  const auto always = [](float) { return true; };
  const auto sum_all = [&](int n, const auto& keep) {
    double sum = 0;
    walk_list(memory, n, keep, [&](int, double, double cumulated) {
      sum = __shfl_sync(~0u, cumulated, 31);
      return false;
    });
    return sum;
  };
  load_weights(by_weight);
  if (total < 0) total = sum_all(count, always);
  if (how.top_p < 1 && !by_weight) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kRowThreads)
      memory.list[i] =
          static_cast<ListKey>(~__float_as_uint(memory.weights[i])) << 32 | static_cast<unsigned>(memory.list[i]);
    __syncthreads();
    row.sort_list(count);
    load_weights(true);
  }
  // All warps walk alike, so that all know the end.
  int kept = count;
  if (how.top_p < 1) {
    const double needed = static_cast<double>(how.top_p) * total;
    walk_list(memory, count, always, [&](int base, double, double cumulated) {
      const unsigned over = __ballot_sync(~0u, cumulated >= needed);
      if (over != 0) kept = min(count, base + __ffs(over));
      return over != 0;
    });
  }
  const float least = __fmul_rn(how.min_p, 1.0f);  // the best token weighs 1
  const auto keep = [&](float weight) { return weight > 0 && weight >= least; };
  const double target = uniform * sum_all(kept, keep);
  int chosen = 0;
  walk_list(memory, kept, keep, [&](int base, double own, double cumulated) {
    const unsigned some = __ballot_sync(~0u, own > 0), over = __ballot_sync(~0u, own > 0 && cumulated > target);
    if (some != 0) chosen = base + 31 - __clz(some);
    if (over != 0) chosen = base + __ffs(over) - 1;
    return over != 0;
  });
  return static_cast<int>(static_cast<unsigned>(memory.list[chosen]));
}

__device__ inline int Draw::from_logits() {
  const int count = list_largest(row, values, max, how.top_k);
  return from_list(count, -1, false);
}

/// Top-p without top-k.
__device__ inline int Draw::from_weights() {
  row.for_each(values, [&](int i, float x) { values[i] = weight_of(x, max, how.temperature); });
  const auto coarse = [](float weight) { return weight > 0 ? weight_bin(weight) : -1; };
  const auto bits_of = [](float weight) { return __float_as_uint(weight); };
  // The weight at which the sum over weights down from the largest comes to a target, by ever finer bins. The first
  // level finds a list short enough, or -1; `before` and `own` are sums above and at that weight.
  struct Level {
    unsigned weight_bits;
    Crossing crossing;
    int list_size;
  };
  double total = 0;
  const auto select = [&](double share, double fixed_target, bool strict, bool may_list) {
    row.histogram(values, coarse, [](int bin) { return (kTopWeightBin - bin) >> 4; }, true);
    if (total == 0) total = row.sum_through(row.memory.row_mass, kBins - 1);
    const double target = share > 0 ? share * total : fixed_target;
    Level level{0, row.find_crossing(row.memory.row_mass, 0, target, strict), -1};
    unsigned prefix = static_cast<unsigned>(kTopWeightBin - level.crossing.bin);
    if (may_list) {
      const double count = row.sum_through(row.memory.row_count, level.crossing.bin);
      if (count <= kListSize) {
        level.list_size = static_cast<int>(count);
        level.weight_bits = prefix;
        return level;
      }
    }
    int shift = 19;
    while (shift > 0) {
      const int bits = min(11, shift), next = shift - bits;
      const unsigned mask = (1u << bits) - 1;
      row.histogram(
          values,
          [&](float weight) {
            const unsigned key = __float_as_uint(weight);
            return weight > 0 && key >> shift == prefix ? static_cast<int>(mask - (key >> next & mask)) : -1;
          },
          [&](int) { return static_cast<int>(prefix >> (23 - shift)); }, true);
      level.crossing = row.find_crossing(row.memory.row_mass, level.crossing.before, target, strict);
      prefix = prefix << bits | (mask - static_cast<unsigned>(level.crossing.bin));
      shift = next;
    }
    level.weight_bits = prefix;
    return level;
  };

  const Level cut = select(how.top_p, 0, false, true);
  if (cut.list_size >= 0) {
    row.gather(
        values, [&](int, float weight) { return weight > 0 && __float_as_uint(weight) >> 19 >= cut.weight_bits; },
        bits_of);
    row.sort_list(cut.list_size);
    return from_list(cut.list_size, total, true);
  }
  // More tokens than a list holds. Of those that weigh what the last kept one weighs, the first few are kept.
  const float cut_weight = __uint_as_float(cut.weight_bits);
  const double needed = static_cast<double>(how.top_p) * total;
  const double ties = floor(cut.crossing.own / cut_weight + 0.5);
  double kept_ties = ceil((needed - cut.crossing.before) / cut_weight);
  kept_ties = fmin(fmax(kept_ties, 1.0), ties);
  double kept_total = cut.crossing.before + kept_ties * cut_weight;
  if (how.min_p > cut_weight) {
    MassAndCount above;
    row.for_each(values, [&](int, float weight) {
      if (weight >= how.min_p) above.mass += weight;
    });
    kept_total = row.reduce(above).mass;
  }
  const double target = uniform * kept_total;
  Level drawn = select(0, target, true, false);
  if (__uint_as_float(drawn.weight_bits) < fmaxf(cut_weight, how.min_p))  // rounding: beyond the last kept one
    drawn = {__float_as_uint(1.0f), {0, target, 1}, -1};
  const float weight = __uint_as_float(drawn.weight_bits);
  double tie = floor((target - drawn.crossing.before) / weight);
  const double most = drawn.weight_bits == cut.weight_bits ? kept_ties : floor(drawn.crossing.own / weight + 0.5);
  tie = fmin(fmax(tie, 0.0), most - 1);
  return row.find_by_id(
      values, [&](float x) { return __float_as_uint(x) == drawn.weight_bits ? 1.0 : 0.0; },
      [&](double) { return tie + 0.5; });
}

/// Neither top-k nor top-p.
__device__ inline int Draw::from_ids() {
  row.for_each(values, [&](int i, float x) {
    const float weight = weight_of(x, max, how.temperature);
    values[i] = weight >= how.min_p ? weight : 0;
  });
  return row.find_by_id(
      values, [](float weight) { return static_cast<double>(weight); }, [&](double total) { return uniform * total; });
}

/// Log-probabilities of the drawn token and of the likeliest, by the first block. `id` need only be known there.
__device__ inline void describe(ClusterRow& row, const SampleRow& how, const float* raw, float raw_max, int id,
                                SampleResult& result) {
  if (row.block == 0 && threadIdx.x < kClusterBlocks)
    *row.of_block(&row.memory.found, static_cast<int>(threadIdx.x)) = id;
  row.cluster.sync();
  const float own = raw[row.memory.found];
  MassAndCount all;
  row.for_each(raw, [&](int, float x) {
    all.mass += expf(x - raw_max);
    all.count += x > own;
  });
  all = row.reduce(all);
  const double normalizer = raw_max + log(all.mass);
  const int count = how.logprobs > 0 ? list_largest(row, raw, raw_max, how.logprobs) : 0;
  if (row.block != 0) return;
  if (static_cast<int>(threadIdx.x) < count) {
    const ListKey key = row.memory.list[threadIdx.x];
    result.top_ids[threadIdx.x] = static_cast<int>(static_cast<unsigned>(key));
    result.top_logprobs[threadIdx.x] =
        static_cast<float>(from_ordered_bits(~static_cast<unsigned>(key >> 32)) - normalizer);
  }
  if (threadIdx.x == 0) {
    result.logprob = static_cast<float>(own - normalizer);
    result.rank = all.count + 1;
    result.num_top = count;
  }
}

}  // namespace imp::cuda
