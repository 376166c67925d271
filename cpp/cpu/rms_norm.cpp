#include "cpu/rms_norm.h"

#include "cpu/kernels.h"
#include "reference/reference.h"

namespace imp::cpu {
namespace {

TensorView rows_of(const TensorView& view, Range rows) {
  if (!view.data) return view;
  return {view.row<float>(rows.begin), view.dtype, rows.end - rows.begin, view.cols, view.row_stride};
}

void plain(const RmsNormArgs& args, Range rows) {
  reference::rms_norm(
      {rows_of(args.x, rows), args.weight, args.epsilon, rows_of(args.y, rows), rows_of(args.add_to, rows)});
}

constexpr RmsNormTable::Entry kCandidates[] = {
#if defined(__x86_64__)
    {"rms_norm_avx512", reject_without<Isa::avx512>, rms_norm_rows<Avx512>},
    {"rms_norm_avx2", reject_without<Isa::avx2>, rms_norm_rows<Avx2>},
#endif
    {"rms_norm_reference", reject_never, plain},
};
constexpr RmsNormTable kTable{"rms_norm", kCandidates};

}  // namespace

const RmsNormTable& rms_norm_table() { return kTable; }

std::string_view run_rms_norm(const CpuContext& context, const RmsNormArgs& args) {
  const auto& kernel = kTable.select({context.isa});
  for_ranges(context, args.x.rows, args.x.rows * args.x.cols, [&](Range rows) { kernel.launch(args, rows); });
  return kernel.name;
}

}  // namespace imp::cpu
