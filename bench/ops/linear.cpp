#include "cpu/linear.h"

#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "core/half.h"
#include "quant/format.h"
#include "support/random.h"

// Speed of the linear kernels of the CPU backend by format and shape:
//   bench_ops_linear [-t THREADS] [-f FORMAT] [-m TOKENS] [-k KERNEL] [--isa avx2]
// us: the least time of one call; with one thread CPU time, else wall time. GB/s counts weight bytes; `share` is that
// of the reading speed measured first with the same threads over memory of the same size. Each call uses the next of
// several matrices, 256 MiB together, so that weights come from memory as they do in a model.

namespace {

using namespace imp;
using namespace imp::cpu;

double seconds(bool cpu_time) {
  timespec now;
  clock_gettime(cpu_time ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Shape {
  const char* what;
  int64_t n, k;
};

constexpr Shape kShapes[] = {
    {"smollm2 q", 576, 576},   {"smollm2 gate", 1536, 576}, {"smollm2 down", 576, 1536}, {"smollm2 head", 49152, 576},
    {"gemma gate", 2048, 640}, {"gemma down", 640, 2048},   {"gemma o", 640, 1024},      {"gemma head", 65536, 640},
    {"qwen3 q", 2048, 1024},   {"qwen3 gate", 3072, 1024},  {"qwen3 down", 1024, 3072},  {"qwen3 head", 65536, 1024},
};

constexpr int64_t kWeightBytes = int64_t{256} << 20;

/// Bytes that are valid blocks of any format: read as f16, each pair is a finite scale below 1.
std::vector<uint16_t> make_bytes() {
  test::Random random(1);
  std::vector<uint16_t> bytes(kWeightBytes / 2);
  for (uint16_t& pair : bytes) pair = static_cast<uint16_t>(random.bits() & 0x3b7f);
  return bytes;
}

struct Bench {
  ThreadPool pool;
  std::vector<uint16_t> weights = make_bytes();
  std::vector<std::byte> scratch;
  std::string kernel;
  Isa isa;
  double read_gb_s = 0;

  Bench(int threads, Isa level) : pool(threads), scratch(linear_scratch_bytes(512, 4096, threads) + 64), isa(level) {
    for (int i = 0; i < 5; ++i) {
      const double begin = seconds(threads == 1);
      std::vector<uint64_t> sums(threads * 8);
      pool.run([&](int worker) {
        const Range share = share_of(kWeightBytes / 8, worker, threads, 8);
        const auto* words = reinterpret_cast<const uint64_t*>(weights.data());
        for (int64_t w = share.begin; w < share.end; w += 8) {
          uint64_t all = 0;
          for (int j = 0; j < 8; ++j) all |= words[w + j];
          sums[worker * 8] += all;
        }
      });
      read_gb_s = std::max(read_gb_s, kWeightBytes / (seconds(threads == 1) - begin) * 1e-9);
      if (sums[0] == 1) std::puts("");
    }
  }

  void measure(WeightFormat format, const Shape& shape, int64_t m, const std::string& forced) {
    if (shape.k % info(format).block_elements != 0) return;
    const int64_t bytes = shape.n * row_bytes(format, shape.k);
    test::Random random(2);
    std::vector<float> x = random.outlier_heavy(m, shape.k), y(m * shape.n);
    LinearLog log{[this](std::string_view name) { kernel = name; }, 0, 0};
    auto* base = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(scratch.data()) + 63) / 64 * 64);
    const CpuContext context = {pool, isa, forced, {base, scratch.size() - 64}};
    const int64_t matrices = std::max<int64_t>(1, kWeightBytes / bytes);
    const bool cpu_time = pool.num_threads() == 1;
    double least = 1e9;
    const int64_t calls = std::clamp<int64_t>(matrices, 1, m == 1 ? 100 : 4);
    for (int repeat = 0; repeat < 5; ++repeat) {
      const double begin = seconds(cpu_time);
      for (int64_t call = 0; call < calls; ++call) {
        const auto* data =
            reinterpret_cast<const std::byte*>(weights.data()) + (call + repeat * calls) % matrices * bytes;
        const WeightView view = {.data = data, .format = format, .rows = shape.n, .cols = shape.k};
        const LinearOutput output = {view, nullptr, f32_view(y.data(), m, shape.n)};
        run_linear(context, {}, {.x = f32_view(x.data(), m, shape.k), .outputs = {&output, 1}}, log);
      }
      least = std::min(least, (seconds(cpu_time) - begin) / static_cast<double>(calls));
    }
    const double gb_s = static_cast<double>(bytes) / least * 1e-9;
    const double gop_s = 2.0 * static_cast<double>(m * shape.n * shape.k) / least * 1e-9;
    std::printf("%-30s %-13s m %4d  %9.1f us  %6.2f GB/s  %5.1f %%  %7.1f GOP/s\n", kernel.c_str(), shape.what,
                static_cast<int>(m), least * 1e6, gb_s, 100 * gb_s / read_gb_s, gop_s);
  }
};

}  // namespace

int main(int argc, char** argv) {
  int threads = 1;
  int64_t tokens = 0;
  std::string format, kernel, isa;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "-t") threads = std::atoi(argv[i + 1]);
    if (flag == "-m") tokens = std::atoi(argv[i + 1]);
    if (flag == "-f") format = argv[i + 1];
    if (flag == "-k") kernel = argv[i + 1];
    if (flag == "--isa") isa = argv[i + 1];
  }
  Bench bench(threads, choose_isa(isa));
  std::printf("%d thread(s), %s, reads %.1f GB/s\n", threads, std::string(isa_name(bench.isa)).c_str(),
              bench.read_gb_s);
  for (const FormatInfo& one : all_formats()) {
    if (!format.empty() && one.name != format) continue;
    for (int64_t m : tokens ? std::vector<int64_t>{tokens} : std::vector<int64_t>{1, 4, 16, 128}) {
      for (const Shape& shape : kShapes) bench.measure(one.format, shape, m, kernel);
    }
  }
}
