#include "backend/prefill_linear.h"

#include <algorithm>

#include "norm/elementwise.h"

namespace imp::cuda {
namespace {

/// gate | up into one buffer, in the type of the result, as many tokens at a time as the buffer holds.
void run_gated(const LinearContext& context, const LinearArgs& args, const PrefillProducts& with) {
  const LinearOutput &gate = args.outputs[0], &up = args.outputs[1];
  const DType type = with.gate_up_type.value_or(gate.y.dtype);
  const int64_t n = gate.weight.rows, bytes = dtype_bytes(type), y_bytes = dtype_bytes(gate.y.dtype);
  const int64_t chunk = std::min(args.tokens(), std::max<int64_t>(1, context.gate_up_bytes / (2 * n * bytes)));
  auto* gate_up = static_cast<std::byte*>(context.gate_up);
  for (int64_t first = 0; first < args.tokens(); first += chunk) {
    const int64_t m = std::min(chunk, args.tokens() - first);
    if (with.joins(gate, up)) {
      with.multiply({args.outputs, first, m, gate_up, 2 * n, type, false});
    } else {
      with.multiply({args.outputs.first(1), first, m, gate_up, 2 * n, type, false});
      with.multiply({args.outputs.last(1), first, m, gate_up + n * bytes, 2 * n, type, false});
    }
    gated_activation({.gate = gate_up,
                      .up = gate_up + n * bytes,
                      .in_stride = 2 * n,
                      .in_type = type,
                      .gate_bias = gate.bias,
                      .up_bias = up.bias,
                      .y = static_cast<std::byte*>(gate.y.data) + first * gate.y.row_stride * y_bytes,
                      .y_type = gate.y.dtype,
                      .y_stride = gate.y.row_stride,
                      .tokens = static_cast<int>(m),
                      .cols = static_cast<int>(n),
                      .activation = args.activation},
                     context.launch);
  }
}

/// Whether b's columns of the output follow those of a.
bool side_by_side(const LinearOutput& a, const LinearOutput& b) {
  return a.y.row_stride == b.y.row_stride && static_cast<float*>(a.y.data) + a.weight.rows == b.y.data;
}

}  // namespace

void run_prefill_products(const LinearContext& context, const LinearArgs& args, const PrefillProducts& with) {
  if (args.gated) return run_gated(context, args, with);
  for (size_t begin = 0; begin < args.outputs.size();) {
    size_t end = begin + 1;
    while (end < args.outputs.size() && side_by_side(args.outputs[end - 1], args.outputs[end]) &&
           with.joins(args.outputs[end - 1], args.outputs[end]))
      ++end;
    const LinearOutput& first = args.outputs[begin];
    with.multiply({args.outputs.subspan(begin, end - begin), 0, args.tokens(), first.y.data, first.y.row_stride,
                   DType::f32, args.accumulate});
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
