#pragma once
#include <string_view>

#include "linear/gemm_imma.h"
#include "linear/packed_weight.h"
#include "ops/args.h"
#include "ops/kernel_table.h"
#include "runtime/cublaslt.h"
#include "runtime/launch.h"

namespace imp {
struct Settings;
}  // namespace imp

namespace imp::cuda {

/// Switches of the configuration that concern linears.
struct LinearSwitches {
  bool no_dp4a_gemv = false;
  bool no_dp4a_lm = false;
  bool no_mmvq = false;
  bool no_mmvq_q8_0 = false;
  bool f16_sums = false;  // gemm.cublas_fp16_acc is on
  bool q8_imma = true;
  bool q4k_imma_prefill = false;
  bool q4k_hmma = false;
};
LinearSwitches linear_switches(const Settings& settings);

class Bf16Weights;
class Fp8Weights;

/// What linears run with: device memory taken at load, and the library.
struct LinearContext {
  LaunchContext launch;
  LinearSwitches switches;
  CublasLt* cublaslt;
  void* x_bf16;       // [max_tokens, max_cols] bf16, or e4m3 with x_scales
  void* weight_bf16;  // weight_elements bf16: a slice of a weight
  int64_t weight_elements;
  void* gate_up;  // of a gated linear before its activation: [tokens, 2 * intermediate], bf16 or fp32
  int64_t gate_up_bytes;
  float* x_scales = nullptr;          // [max_tokens]
  const Fp8Weights* fp8 = nullptr;    // where attention.fp8_prefill asks for them
  const Bf16Weights* bf16 = nullptr;  // where the memory plan has room for copies
  ImmaScratch imma = {};
  int capability = 0;   // of the device: 10 * major + minor
  bool prompt = false;  // the step is one of a prompt
};

struct LinearProblem {
  LinearRole role;
  WeightFormat format;
  int64_t m, n, k;
  int64_t max_shared_bytes;  // that a block can have
  LinearSwitches switches;
  bool mixed = false;             // gate and up are stored in different formats
  bool bf16_activations = false;  // x or y
  bool fp8 = false;               // there are copies of the weights in e4m3
  bool bf16_copy = false;         // of every weight of this linear
  bool scaled = false;            // a weight has a scale of its own besides those of its blocks
  int capability = 0;             // of the device
  bool gated = false;             // gate and up
  int64_t rows = 0;               // of all outputs
  int num_sms = 0;
};

/// How a candidate computes a linear.
struct LinearKernel {
  void (*run)(const LinearContext&, const LinearArgs&);
  /// Whether outputs in these two layouts go to run() together; null: only outputs of one format do.
  bool (*mixes)(PackedLayout, PackedLayout) = nullptr;
};
const KernelTable<LinearProblem, LinearKernel>& linear_table();

/// Runs a linear with the best candidate. Outputs of different formats run together where it mixes them, else one
/// after another.
void run_linear(const LinearContext& context, const LinearArgs& args, std::string_view forced);

}  // namespace imp::cuda
