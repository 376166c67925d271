#include "backend/dequant_gemm.h"

#include <algorithm>
#include <array>

#include "linear/dequantize.h"
#include "norm/elementwise.h"

namespace imp::cuda {
namespace {

constexpr size_t kMaxParts = 3;

/// Weights whose outputs lie side by side: one product of as many rows as they have together.
struct JoinedWeight {
  std::array<const WeightView*, kMaxParts> parts;
  size_t num_parts = 0;
  int64_t rows = 0, cols = 0;

  void add(const WeightView& weight) {
    parts[num_parts++] = &weight;
    rows += weight.rows;
    cols = weight.cols;
  }
};

/// Rows [first, first + count) of the weight as bf16: where they are, or in the scratch.
const void* rows_as_bf16(const LinearContext& context, const JoinedWeight& weight, int64_t first, int64_t count) {
  if (weight.num_parts == 1 && weight.parts[0]->format == WeightFormat::bf16)
    return static_cast<const uint16_t*>(weight.parts[0]->data) + first * weight.cols;
  auto* scratch = static_cast<uint16_t*>(context.weight_bf16);
  int64_t part_begin = 0;
  for (size_t p = 0; p < weight.num_parts; ++p) {
    const WeightView& part = *weight.parts[p];
    const int64_t begin = std::max(first, part_begin), end = std::min(first + count, part_begin + part.rows);
    if (begin < end)
      dequantize_bf16(part, begin - part_begin, end - begin, scratch + (begin - first) * weight.cols, context.launch);
    part_begin += part.rows;
  }
  return scratch;
}

/// y (+)= x * W^T. Slices are of equal size, so that none is left too small to fill the card.
void multiply(const LinearContext& context, const void* x, int64_t m, const JoinedWeight& weight, void* y,
              int64_t y_stride, DType y_type, bool accumulate) {
  const int64_t k = weight.cols;
  const bool in_place = weight.num_parts == 1 && weight.parts[0]->format == WeightFormat::bf16;
  const int64_t fitting = std::max<int64_t>(8, context.weight_elements / k / 8 * 8);
  const int64_t slices = in_place ? 1 : (weight.rows + fitting - 1) / fitting;
  const int64_t slice =
      slices == 1 ? weight.rows : std::min(fitting, ((weight.rows + slices - 1) / slices + 127) / 128 * 128);
  for (int64_t first = 0; first < weight.rows; first += slice) {
    const int64_t count = std::min(slice, weight.rows - first);
    const GemmCall call{.a = x,
                        .w = rows_as_bf16(context, weight, first, count),
                        .y = static_cast<std::byte*>(y) + first * dtype_bytes(y_type),
                        .m = m,
                        .n = count,
                        .k = k,
                        .y_stride = y_stride,
                        .y_type = y_type,
                        .accumulate = accumulate};
    context.cublaslt->gemm(call, context.launch.stream);
  }
}

/// h as bf16: x itself where it is that already, else converted into the workspace.
const void* inputs_as_bf16(const LinearContext& context, const LinearArgs& args) {
  const bool as_it_is = args.x.dtype == DType::bf16 && !args.norm_weight && !args.row_indices &&
                        args.x.row_stride == args.x.cols && reinterpret_cast<uintptr_t>(args.x.data) % 16 == 0;
  if (as_it_is) return args.x.data;
  to_bf16({args.x.data, args.x.row_stride, args.row_indices, args.norm_weight, args.norm_epsilon,
           static_cast<int>(args.tokens()), static_cast<int>(args.x.cols), context.x_bf16, args.x.dtype},
          context.launch);
  return context.x_bf16;
}

/// gate | up into one buffer, in bf16 where the result is: then both are one product. As many tokens at a time as the
/// buffer holds.
void launch_gated(const LinearContext& context, const LinearArgs& args, const void* x) {
  const LinearOutput &gate = args.outputs[0], &up = args.outputs[1];
  const DType type = gate.y.dtype;
  const int64_t n = gate.weight.rows, k = args.x.cols, bytes = dtype_bytes(type);
  const bool joined = gate.weight.format != WeightFormat::bf16 || up.weight.format != WeightFormat::bf16;
  const int64_t chunk = std::min(args.tokens(), context.gate_up_bytes / (2 * n * bytes));
  for (int64_t first = 0; first < args.tokens(); first += chunk) {
    const int64_t m = std::min(chunk, args.tokens() - first);
    const void* from = static_cast<const uint16_t*>(x) + first * k;
    auto* gate_up = static_cast<std::byte*>(context.gate_up);
    JoinedWeight both, one, other;
    both.add(gate.weight), both.add(up.weight), one.add(gate.weight), other.add(up.weight);
    if (joined) {
      multiply(context, from, m, both, gate_up, 2 * n, type, false);
    } else {
      multiply(context, from, m, one, gate_up, 2 * n, type, false);
      multiply(context, from, m, other, gate_up + n * bytes, 2 * n, type, false);
    }
    gated_activation({.gate = gate_up,
                      .up = gate_up + n * bytes,
                      .in_stride = 2 * n,
                      .in_type = type,
                      .gate_bias = gate.bias,
                      .up_bias = up.bias,
                      .y = static_cast<std::byte*>(gate.y.data) + first * gate.y.row_stride * bytes,
                      .y_type = type,
                      .y_stride = gate.y.row_stride,
                      .tokens = static_cast<int>(m),
                      .cols = static_cast<int>(n),
                      .activation = args.activation},
                     context.launch);
  }
}

/// Whether b's rows of the output continue those of a.
bool side_by_side(const LinearOutput& a, const LinearOutput& b) {
  return a.y.row_stride == b.y.row_stride && static_cast<float*>(a.y.data) + a.weight.rows == b.y.data;
}

}  // namespace

const char* reject_dequant_gemm(const LinearProblem& p) {
  const bool is_float = info(p.format).block_elements == 1;
  if (p.k % 8 != 0) return "k is not a multiple of 8";
  if (!is_float && p.k % 32 != 0) return "k is not a multiple of 32";
  return nullptr;
}

void launch_dequant_gemm(const LinearContext& context, const LinearArgs& args) {
  const void* x = inputs_as_bf16(context, args);
  if (args.gated) return launch_gated(context, args, x);
  for (size_t begin = 0; begin < args.outputs.size();) {
    JoinedWeight weight;
    size_t end = begin;
    do {
      weight.add(args.outputs[end++].weight);
    } while (end < args.outputs.size() && side_by_side(args.outputs[end - 1], args.outputs[end]) &&
             args.outputs[end].weight.format != WeightFormat::bf16 && weight.parts[0]->format != WeightFormat::bf16);
    const LinearOutput& first = args.outputs[begin];
    multiply(context, x, args.tokens(), weight, first.y.data, first.y.row_stride, DType::f32, args.accumulate);
    for (; begin < end; ++begin) {
      const LinearOutput& output = args.outputs[begin];
      if (output.bias)
        add_bias(static_cast<float*>(output.y.data), output.y.row_stride, output.bias, static_cast<int>(args.tokens()),
                 static_cast<int>(output.weight.rows), context.launch);
    }
  }
}

int64_t gate_up_bytes(int64_t max_tokens, int64_t max_intermediate) {
  return max_tokens * 2 * max_intermediate * dtype_bytes(DType::bf16);
}

}  // namespace imp::cuda
