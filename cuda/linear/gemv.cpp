#include "linear/gemv.h"

#include "core/error.h"

namespace imp::cuda {

// One a layout, each in a .cu of its own so that they compile side by side.
void gemv_dp4a_q8(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_q4k(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_q6k(const GemvArgs& args, const LaunchContext& context);
void gemv_dp4a_groups(const GemvArgs& args, const LaunchContext& context);

void gemv_dp4a(PackedLayout layout, const GemvArgs& args, const LaunchContext& context) {
  if (args.tokens == 0) return;
  switch (layout) {
    case PackedLayout::kQ8: return gemv_dp4a_q8(args, context);
    case PackedLayout::kQ4K: return gemv_dp4a_q4k(args, context);
    case PackedLayout::kQ6K: return gemv_dp4a_q6k(args, context);
    case PackedLayout::kGroups: return gemv_dp4a_groups(args, context);
    case PackedLayout::kRows: break;
  }
  fail(ErrorCode::internal, "gemv_dp4a has no integer codes to multiply in this layout");
}

}  // namespace imp::cuda
