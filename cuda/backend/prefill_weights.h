#pragma once
#include <functional>
#include <vector>

#include "backend/bf16_gemm.h"
#include "backend/fp8_gemm.h"

namespace imp {
struct ModelSpec;
struct ModelTensors;
}  // namespace imp

namespace imp::cuda {

/// The weights of the layers as their linears multiply them, q|k|v and gate|up together; known from the order in which
/// they are prepared. What prefill sizes its scratch by, times algorithms for, and copies to bf16 or fp8.
class PrefillWeights {
 public:
  void add(LinearRole role, const WeightView& weight);

  /// Elements of bf16 scratch: the largest linear of the model, within a limit.
  int64_t scratch_elements() const;
  static int64_t scratch_elements(const ModelSpec& spec);
  /// Bytes of the copies in bf16; 0 where weights have scales of their own, which come after the copies.
  static uint64_t bf16_bytes(const ModelTensors& tensors);
  /// Bytes of the copies in fp8.
  static uint64_t fp8_bytes(const ModelSpec& spec);

  void copy_to_bf16(Bf16Weights& copies, const std::function<void*(uint64_t)>& allocate,
                    const LaunchContext& context) const;
  void copy_to_fp8(Fp8Weights& copies, const std::function<void*(uint64_t)>& allocate,
                   const LinearContext& context) const;
  /// Times the library's algorithms for the products of steps of `m` tokens, each shape once, in the context's buffers.
  void tune(const LinearContext& context, int64_t m) const;
  /// Asks the library for its choices for products of copies, of steps of `from` to `to` tokens.
  void prepare(const LinearContext& context, int64_t from, int64_t to) const;

 private:
  struct Linear {
    LinearRole role;
    std::vector<WeightView> weights;
    int64_t rows = 0, cols = 0;
  };
  static GemmCall product(const LinearContext& context, const Linear& linear, int64_t m);
  static bool is_copied(const LinearContext& context, const Linear& linear);

  std::vector<Linear> linears_;
};

}  // namespace imp::cuda
