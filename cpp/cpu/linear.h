#pragma once
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "cpu/context.h"
#include "ops/args.h"
#include "ops/kernel_table.h"

namespace imp {
struct Settings;
}

namespace imp::cpu {

/// Switches of the configuration that take kernels out of the choice.
struct LinearSwitches {
  bool no_dp4a_gemv = false;     // gemm.no_dp4a_gemv
  bool no_dp4a_lm = false;       // gemm.no_dp4a_lm
  bool no_mmvq = false;          // gemm.no_mmvq
  bool no_mmvq_q8_0 = false;     // gemm.no_mmvq_q8_0
  bool lm_dequant_fp16 = false;  // generation.lm_dequant_fp16
  bool debug_raw = false;        // runtime.debug_raw: no integer dots, for bisection
};
LinearSwitches linear_switches(const Settings& settings);

/// A linear's output as the choice of its kernel sees it.
struct LinearProblem {
  Isa isa;
  LinearRole role;
  WeightFormat format;
  int64_t m, n, k;  // tokens, out features, in features
  LinearSwitches switches = {};
  bool skip = false;  // skip_threshold > 0
};

/// How a kernel computes:
enum class LinearFamily : uint8_t {
  gemv_dp4a,        // one token: int8 activations . codes, a row at a time straight from the stored blocks
  gemv_dp4a_skip,   // the same, passing over blocks of quiet activations
  mmvq,             // few tokens: as gemv_dp4a, each unpacked block used for all of them
  mmq,              // many tokens: rows unpacked once into a tile of codes, then integer dots
  gemv_dequant,     // one token, weights and activations in fp32
  gemm_dequant,     // many tokens, rows unpacked into a tile of fp32
  dequant_lm_head,  // the head through a tile rounded to f16
  reference,        // as gemm_dequant in plain C++, for any format and machine
};
struct LinearKernel {
  LinearFamily family;
  Isa isa;
};
using LinearTable = KernelTable<LinearProblem, LinearKernel>;

/// The candidates for weights of a format. Names are <family>_<format>_<isa>: "gemv_dp4a_q4_k_avx512".
const LinearTable& linear_table(WeightFormat format);

/// What run_linear() tells about what it did.
struct LinearLog {
  std::function<void(std::string_view kernel)> launched;  // once for each kernel of an op
  int64_t skipped_blocks = 0;                             // by gemv_dp4a_skip: 32-blocks of weights not read
  int64_t skippable_blocks = 0;                           // ... of so many
};

/// Bytes of CpuContext::scratch that a linear of at most `m` tokens and `k` in features needs.
int64_t linear_scratch_bytes(int64_t m, int64_t k, int num_threads);

/// Computes what ops/args.h says. The order of every sum is fixed by the shapes and the kernel, never by the number of
/// threads.
void run_linear(const CpuContext& context, const LinearSwitches& switches, const LinearArgs& args, LinearLog& log);

}  // namespace imp::cpu
