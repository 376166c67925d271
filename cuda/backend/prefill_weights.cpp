#include "backend/prefill_weights.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "backend/dequant_gemm.h"
#include "backend/prefill_linear.h"
#include "exec/backend.h"
#include "linear/dequantize.h"
#include "model/spec.h"
#include "model/weights.h"

namespace imp::cuda {
namespace {

constexpr int64_t kMaxScratchElements = int64_t{128} << 20;  // 256 MiB; larger linears go in slices

size_t outputs_of(LinearRole role) { return role == LinearRole::qkv ? 3 : role == LinearRole::gate_up ? 2 : 1; }

struct Shape {
  int64_t rows, cols;
};
/// The linears of one layer.
std::vector<Shape> shapes_of(const ModelSpec& spec, const LayerSpec& layer) {
  const int64_t hidden = spec.hidden_size, intermediate = layer.ffn.intermediate_size;
  const int64_t q = int64_t{layer.attention.num_heads} * layer.attention.head_dim;
  const int64_t kv = int64_t{layer.attention.num_kv_heads} * layer.attention.head_dim;
  return {{q + 2 * kv, hidden}, {hidden, q}, {2 * intermediate, hidden}, {hidden, intermediate}};
}

}  // namespace

void PrefillWeights::add(LinearRole role, const WeightView& weight) {
  const bool continues = !linears_.empty() && linears_.back().role == role &&
                         linears_.back().weights.size() < outputs_of(role) && linears_.back().cols == weight.cols;
  if (!continues) linears_.push_back({.role = role, .weights = {}, .cols = weight.cols});
  linears_.back().weights.push_back(weight);
  linears_.back().rows += weight.rows;
}

int64_t PrefillWeights::scratch_elements() const {
  int64_t elements = 0;
  for (const Linear& linear : linears_)
    if (linear.role != LinearRole::lm_head) elements = std::max(elements, linear.rows * linear.cols);
  return std::min(elements, kMaxScratchElements);
}

int64_t PrefillWeights::scratch_elements(const ModelSpec& spec) {
  int64_t elements = 0;
  for (const LayerSpec& layer : spec.layers)
    for (const Shape& shape : shapes_of(spec, layer)) elements = std::max(elements, shape.rows * shape.cols);
  return std::min(elements, kMaxScratchElements);
}

uint64_t PrefillWeights::bf16_bytes(const ModelTensors& tensors) {
  static constexpr std::pair<WeightRole, LinearRole> kRoles[] = {
      {WeightRole::q_proj, LinearRole::qkv},        {WeightRole::k_proj, LinearRole::qkv},
      {WeightRole::v_proj, LinearRole::qkv},        {WeightRole::o_proj, LinearRole::o},
      {WeightRole::gate_proj, LinearRole::gate_up}, {WeightRole::up_proj, LinearRole::gate_up},
      {WeightRole::down_proj, LinearRole::down}};
  if (!tensors.scales.empty()) return 0;
  uint64_t bytes = 0;
  for (const ModelTensors::ByRole& layer : tensors.layers) {
    for (const auto& [weight_role, role] : kRoles) {
      const TensorInfo* tensor = layer[static_cast<size_t>(weight_role)];
      if (tensor && !Bf16Weights::reject(role, tensor->format, tensor->shape[1]))
        bytes += Bf16Weights::bytes(tensor->shape[0], tensor->shape[1]);
    }
  }
  return bytes;
}

uint64_t PrefillWeights::fp8_bytes(const ModelSpec& spec) {
  uint64_t bytes = 0;
  for (const LayerSpec& layer : spec.layers)
    for (const Shape& shape : shapes_of(spec, layer)) bytes += Fp8Weights::bytes(shape.rows, shape.cols);
  return bytes;
}

void PrefillWeights::copy_to_bf16(Bf16Weights& copies, const std::function<void*(uint64_t)>& allocate,
                                  const LaunchContext& context) const {
  for (const Linear& linear : linears_) {
    std::vector<WeightView> wanted;
    for (const WeightView& weight : linear.weights)
      if (!Bf16Weights::reject(linear.role, weight.format, weight.cols)) wanted.push_back(weight);
    if (!wanted.empty()) copies.add(wanted, allocate, context);
  }
}

void PrefillWeights::copy_to_fp8(Fp8Weights& copies, const std::function<void*(uint64_t)>& allocate,
                                 const LinearContext& context) const {
  for (const Linear& linear : linears_)
    if (!Fp8Weights::reject(linear.role, linear.cols)) copies.add(linear.weights, allocate, context);
}

/// The product of a linear with what a step of m tokens has around it; w is the scratch.
GemmCall PrefillWeights::product(const LinearContext& context, const Linear& linear, int64_t m) {
  return {.a = context.x_bf16,
          .w = context.weight_bf16,
          .y = context.gate_up,
          .m = m,
          .n = linear.rows,
          .k = linear.cols,
          .y_stride = linear.rows,
          .y_type = linear.role == LinearRole::gate_up ? DType::bf16 : DType::f32,
          .accumulate = linear.role == LinearRole::o || linear.role == LinearRole::down};
}

bool PrefillWeights::is_copied(const LinearContext& context, const Linear& linear) {
  return context.bf16 && std::ranges::all_of(linear.weights, [&](const WeightView& weight) {
           return context.bf16->find(weight) != nullptr;
         });
}

void PrefillWeights::prepare(const LinearContext& context, int64_t from, int64_t to) const {
  std::set<std::tuple<LinearRole, int64_t, int64_t>> done;
  for (const Linear& linear : linears_) {
    if (!is_copied(context, linear) || !done.emplace(linear.role, linear.rows, linear.cols).second) continue;
    GemmCall call = product(context, linear, from);
    call.w = context.bf16->find(linear.weights[0]);
    for (; call.m <= to; call.m = CublasLt::top_of_range(call.m) + 1) context.cublaslt->prepare(call);
  }
}

void PrefillWeights::tune(const LinearContext& context, int64_t m) const {
  std::set<std::tuple<LinearRole, int64_t, int64_t>> done;
  for (const Linear& linear : linears_) {
    if (linear.role == LinearRole::lm_head || !done.emplace(linear.role, linear.rows, linear.cols).second) continue;
    const bool fp8 = context.fp8 && !Fp8Weights::reject(linear.role, linear.cols);
    GemmCall call = product(context, linear, m);
    if (m * call.y_stride * dtype_bytes(call.y_type) > context.gate_up_bytes) continue;
    const bool copied = is_copied(context, linear);
    if (fp8) {
      const Fp8Weights::View& copy = *context.fp8->find(linear.weights[0]);
      call.inputs = GemmInputs::e4m3;
      call.w = copy.codes, call.w_scale = copy.scales, call.a_scale = context.x_scales;
    } else {
      if (copied)
        call.w = context.bf16->find(linear.weights[0]);
      else
        call.n = std::min(linear.rows, dequant_slice_rows(context, linear.rows, linear.cols));
      // Timed on the weights' own numbers: products of zeros take less power, and less time.
      const WeightView& weight = linear.weights[0];
      if (!copied) dequantize_bf16(weight, 0, std::min(weight.rows, call.n), context.weight_bf16, context.launch);
      dequantize_bf16(weight, 0, std::min(weight.rows, m), context.x_bf16, context.launch);
    }
    context.cublaslt->tune(call, context.launch.stream);
  }
}

}  // namespace imp::cuda
