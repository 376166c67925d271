#include "backend/prefill_graphs.h"

#include <algorithm>

namespace imp::cuda {

void PrefillGraphs::run(const StepShape& shape, const LaunchContext& context, const std::function<void()>& forward) {
  const auto known = std::ranges::find(kept_, shape, &Kept::shape);
  if (known != kept_.end())
    kept_.splice(kept_.begin(), kept_, known);
  else
    kept_.push_front({shape, make_()});
  if (kept_.size() > kMaxShapes) {
    // What is replayed last may still run, and a graph must outlive that.
    check(cudaStreamSynchronize(context.stream), "waiting for the device");
    kept_.pop_back();
  }
  StepGraphs& graphs = *kept_.front().graphs;
  const int64_t captures = graphs.captures(), replays = graphs.replays();
  const size_t refusals = graphs.refusals().size();
  graphs.run(shape, context, forward);
  captures_ += graphs.captures() - captures;
  replays_ += graphs.replays() - replays;
  refusals_.insert(refusals_.end(), graphs.refusals().begin() + static_cast<int64_t>(refusals),
                   graphs.refusals().end());
}

}  // namespace imp::cuda
