#include "cpu/softcap.h"

#include "cpu/kernels.h"
#include "reference/reference.h"

namespace imp::cpu {
namespace {

/// Columns that one worker takes at a time: the op's rows may be few and as long as a vocabulary.
constexpr int64_t kSpan = 4096;

void plain(float* x, int64_t count, float cap) { reference::softcap({f32_view(x, 1, count), cap}); }

constexpr SoftcapTable::Entry kCandidates[] = {
#if defined(__x86_64__)
    {"softcap_avx512", reject_without<Isa::avx512>, softcap_span<Avx512>},
    {"softcap_avx2", reject_without<Isa::avx2>, softcap_span<Avx2>},
#endif
    {"softcap_reference", reject_never, plain},
};
constexpr SoftcapTable kTable{"softcap", kCandidates};

}  // namespace

const SoftcapTable& softcap_table() { return kTable; }

std::string_view run_softcap(const CpuContext& context, const SoftcapArgs& args) {
  const auto& kernel = kTable.select({context.isa});
  const int64_t spans = (args.x.cols + kSpan - 1) / kSpan;  // of a row
  for_ranges(context, args.x.rows * spans, args.x.rows * args.x.cols, [&](Range range) {
    for (int64_t i = range.begin; i < range.end; ++i) {
      const int64_t column = i % spans * kSpan;
      const int64_t count = args.x.cols - column < kSpan ? args.x.cols - column : kSpan;
      kernel.launch(args.x.row<float>(i / spans) + column, count, args.cap);
    }
  });
  return kernel.name;
}

}  // namespace imp::cpu
